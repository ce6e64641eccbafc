"""Small files that this package keeps: written whole or not at all, on disk when that is said.

Two ways, by whether a file may be there already. Both make it readable by its
owner alone: what is kept is a key, a secret, or what is trusted. Where a file
system has no hard links, or no modes (FAT, exFAT, folders of Windows in WSL or
Docker), as much of that holds as can; `keeps_modes` says whether.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO
"""Mode bits that a private file does not have."""

NO_MODES = (
    "the file system keeps no modes, so whoever may read its files has this secret; "
    "mount it for this user alone (uid=, umask=0077), or keep the file elsewhere"
)
"""Why a secret there is not as private as it should be; see `keeps_modes`."""

LOCK_SECONDS = 2.0
"""A file is read and replaced within milliseconds; whoever holds its lock longer is stuck."""

LOCK_POLL_SECONDS = 0.01

_DISK_TROUBLE = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_HAVE_LINKS = (errno.EEXIST, errno.ENOENT, *_DISK_TROUBLE)
"""Why a link fails where links are to be had."""


PARENT_MODE = 0o755
"""Of folders that are made on the way: whatever the umask, nobody else may write there."""


def make_private_directory(directory: Path) -> None:
    """Make it, mode 0700, and what is missing above it. What is there stays as it is.

    Raises OSError. With no umask, as some supervisors and containers start a
    process, the folders above would be open to everybody, and whoever may rename
    a folder there can replace what is kept below.
    """
    missing = [folder for folder in directory.parents if not os.path.lexists(folder)]
    for folder in reversed(missing):
        folder.mkdir(mode=PARENT_MODE, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)


def create_private(path: Path, content: bytes) -> None:
    """Put a new file in its place, mode 0600. Raises OSError, also when there is one."""
    _write_beside(path, content, _rename_if_absent)


def replace_private(path: Path, content: bytes) -> None:
    """Put a file in its place, mode 0600, whatever was there. Raises OSError."""
    _write_beside(path, content, os.replace)


def _write_beside(path: Path, content: bytes, put: Callable[[Path, Path], None]) -> None:
    # not the process's number: containers that share a directory have the same
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        put(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _rename_if_absent(partial: Path, path: Path) -> None:
    if os.name == "nt":
        partial.rename(path)  # which fails there when there is one
        return
    try:
        os.link(partial, path)  # fails when there is one, as rename would not
    except OSError as error:
        if error.errno in _HAVE_LINKS:
            raise
        _rename_without_links(partial, path)


def _rename_without_links(partial: Path, path: Path) -> None:
    """Look and rename while nobody else of this package does, as far as locks go."""
    import fcntl

    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # there may be no locks either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        partial.rename(path)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    """A new name survives a loss of power only when its directory is on disk too."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return  # Windows opens no directory
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _DISK_TROUBLE:
            raise
        # a file system that syncs no directory keeps its names otherwise
    finally:
        os.close(descriptor)


def keeps_modes(directory: Path) -> bool:
    """Whether a file there can be closed to others by its mode, as tried with one.

    True where none can be made: then nothing is known against it.
    """
    probe = directory / f".mode.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return True
    try:
        with suppress(OSError):  # refused by some that have no modes
            os.chmod(probe, 0o600)
        return not os.fstat(descriptor).st_mode & OTHERS_MAY
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else who asks the same is in here; for reading a file and replacing it.

    The lock is a file of its own, `.NAME.lock`, since ``path`` itself is
    replaced. Raises OSError: TimeoutError when somebody has it too long.
    """
    with path.with_name(f".{path.name}.lock").open("ab") as file:
        ends = time.monotonic() + LOCK_SECONDS
        while not _lock(file):
            if time.monotonic() > ends:
                raise TimeoutError(errno.ETIMEDOUT, "another process has it locked", str(path))
            time.sleep(LOCK_POLL_SECONDS)
        yield  # closing it unlocks


def _lock(file: IO[bytes]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # any other reason: a file system without locks, where this is as good as it gets
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
    return True
