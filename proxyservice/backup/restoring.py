"""From a backup file to a state directory that a service can start from, or no change at all.

Everything is unpacked and checked in a folder of its own, `state.RESTORING`, and
only then put in place; a service does not start while that folder is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from proxyservice.backup.archive import (
    OPTIONS,
    STATE,
    ArchiveReader,
    BadArchiveError,
    Entry,
    Manifest,
)
from proxyservice.errors import StartError, StoreError
from proxyservice.files import make_private_directory
from proxyservice.leases.copying import raise_epochs
from proxyservice.ownership import check_directory
from proxyservice.state import RESTORED, RESTORING, refuse_unfinished
from proxyservice.state_lock import LOCK_FILE, StateLock

ROOM_BYTES = 16 << 20
"""Beyond the files themselves: for the journal of the store, and for folders."""


@dataclass(slots=True)
class Restored:
    """What was put where."""

    manifest: Manifest
    foreign: list[tuple[Path, Entry]] = field(default_factory=list)
    """What options had named elsewhere, and where it is now."""


def restore(file: Path, directory: Path, wall_now: float) -> Restored:
    """Fill a state directory that is empty or not there.

    Raises StartError, and then nothing has changed.
    """
    with _opened(file) as archive, _target(directory) as kept_by:
        restored = Restored(archive.manifest)
        work = directory / RESTORING
        try:
            _check_room(archive.manifest, directory)
            work.mkdir(mode=0o700)
            _unpack(archive, work, restored)
            if archive.manifest.database:
                _make_ready(work / archive.manifest.database, archive.manifest, wall_now)
            _own(work, kept_by)
            _put_in_place(work, directory)
        except OSError as error:
            raise StartError(f"cannot restore into {directory}: {error.strerror}") from None
        return restored


@contextmanager
def _opened(file: Path) -> Iterator[ArchiveReader]:
    """Its errors have the name of the file."""
    try:
        with file.open("rb") as content:
            if content.isatty():
                raise StartError(f"{file} is a terminal")
            try:
                yield ArchiveReader(content)
            except BadArchiveError as error:
                raise StartError(f"{file} {error}") from None
    except OSError as error:
        raise StartError(f"cannot read {file}: {error.strerror}") from None


@contextmanager
def _target(directory: Path) -> Iterator[int]:
    """The empty directory, locked, and who owns it; on an error it is again as it was."""
    made = _make(directory)
    lock = None
    try:
        check_directory(directory, as_root=True)
        owner = directory.stat().st_uid
        lock = StateLock(directory, owner)
        had_lock = os.path.lexists(directory / LOCK_FILE)
        if had_lock:
            lock.take()  # first, so that a running service is called that
        _check_empty(directory)
        if not had_lock:
            lock.take()
        try:
            yield owner
        except BaseException:
            _clear(directory, had_lock)
            raise
    except BaseException:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise
    finally:
        if lock is not None:
            lock.release()


def _make(directory: Path) -> list[Path]:
    """The folders that had to be made for it, innermost first."""
    made = []
    for folder in (directory, *directory.parents):
        if os.path.lexists(folder):
            break
        made.append(folder)
    try:
        make_private_directory(directory)
    except OSError as error:
        raise StartError(f"cannot make {directory}: {error.strerror}") from None
    return made


def _check_empty(directory: Path) -> None:
    refuse_unfinished(directory)
    found = sorted(set(os.listdir(directory)) - {LOCK_FILE})
    if found:
        raise StartError(
            f"{directory} is not empty, there is {found[0]!r}; move it away, "
            "or choose another --state-dir"
        )


def _clear(directory: Path, had_lock: bool) -> None:
    """Everything in it has come from this restore."""
    for path in directory.iterdir():
        if path.name == LOCK_FILE:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not had_lock:
        (directory / LOCK_FILE).unlink(missing_ok=True)


def _check_room(manifest: Manifest, directory: Path) -> None:
    needed = sum(entry.size for entry in manifest.files) + ROOM_BYTES
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise StartError(
            f"{directory} has room for {free >> 20} MiB, and the backup needs {needed >> 20}"
        )


def _unpack(archive: ArchiveReader, work: Path, restored: Restored) -> None:
    for entry in archive.files():
        name = entry.name
        if not name.startswith(f"{STATE}/"):
            name = _free(work, f"{STATE}/{RESTORED}/{name.removeprefix(f'{OPTIONS}/')}")
            restored.foreign.append((Path(name).relative_to(STATE), entry))
        with _new(work / name) as file:
            archive.copy(entry, file)
            file.flush()
            os.fsync(file.fileno())
    archive.end()


def _free(work: Path, name: str) -> str:
    """The name itself, or the next one that nothing from the state directory has."""
    others = (f"{name}-{number}" for number in count(2))
    return next(one for one in chain([name], others) if not os.path.lexists(work / one))


def _new(path: Path) -> BinaryIO:
    for folder in reversed([one for one in path.parents if not one.exists()]):
        folder.mkdir(mode=0o700)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _make_ready(database: Path, manifest: Manifest, wall_now: float) -> None:
    try:
        raise_epochs(database, wall_now - manifest.made)
    except StoreError as error:
        raise BadArchiveError(f"has leases that cannot be used: {error}") from None


def _own(work: Path, owner: int) -> None:
    """Root restores for the user who owns the directory."""
    if os.geteuid() == owner:
        return
    for folder, folders, names in os.walk(work):
        for name in (*folders, *names):
            os.chown(Path(folder, name), owner, -1, follow_symlinks=False)


def _put_in_place(work: Path, directory: Path) -> None:
    for folder, _, _ in os.walk(work):
        _sync(Path(folder))
    _sync(directory)  # from here on, until the end, no service starts there
    state = work / STATE
    for path in sorted(state.iterdir()) if state.exists() else ():
        path.rename(directory / path.name)
    if state.exists():
        state.rmdir()
    _sync(directory)
    work.rmdir()
    _sync(directory)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
