"""Whether what a process keeps is its own alone: who else may write where it keeps leases and keys.

Whoever can change the state directory is the relay, or has the node's address.
So a directory or file that other users can change is refused and never repaired
in silence. Knows owners, modes and links, and nothing of what the files hold.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.logger import Logger

from proxyservice.errors import StartError
from proxyservice.files import NO_MODES, OTHERS_MAY, keeps_modes

ROOT = 0
MOUNT_ALONE = (
    "its file system keeps no modes: mount it for this user alone (uid=, umask=0077), "
    "or choose another place"
)
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

HAS_OWNERS = hasattr(os, "geteuid")
"""Windows has neither these owners nor these modes; there nothing is checked."""

_ONE_FILE = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))
"""A link is not followed, and a pipe that lies there is not waited for."""

log = Logger()


def check_directory(directory: Path, *, as_root: bool = False) -> None:
    """Refuse a state directory that other users can change. Raises StartError.

    It may be a link, as systemd's /var/lib/NAME is one: then what it leads to counts.
    One that is not there is not refused. With ``as_root`` root may work for its owner.
    """
    if not HAS_OWNERS:
        return
    try:
        found = directory.resolve(strict=True)
        owner = found.stat().st_uid if as_root and os.geteuid() == ROOT else None
        _check_owner(directory.lstat(), directory, owner)
        _check_owner(found.stat(), found, owner)
        if found.stat().st_mode & OTHERS_WRITE:
            remedy = _remedy("go-w", found, found)
            raise StartError(f"other users can write to {found}; {remedy}")
        for parent in found.parents:
            mode = parent.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise StartError(
                    f"other users can replace {found}: everybody can write to {parent}; "
                    f"choose another place, or do: chmod o-w {parent}"
                )
    except FileNotFoundError:
        return
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        why = getattr(error, "strerror", None) or "it is a link that leads nowhere"
        raise StartError(f"cannot look at {directory}: {why}") from None


def open_own(path: Path, flags: int, *, secret: bool = False, owner: int | None = None) -> int:
    """Open a file of the state directory, mode 0600 where it is made.

    Raises OSError, and StartError for a link, for what is no file, and for a file that
    other users own or can write; with ``secret`` also for one that they can read.
    An ``owner`` is as good as the user of this process.
    """
    _check_link(path)
    descriptor = os.open(path, flags | _ONE_FILE, 0o600)
    try:
        _check_file(os.fstat(descriptor), path, secret, owner)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_own(path: Path) -> None:
    """The same of a file that a library opens by its name; it may be missing. Raises StartError."""
    try:
        _check_link(path)
        _check_file(path.stat(), path, secret=False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"cannot look at {path}: {error.strerror}") from None


def _check_link(path: Path) -> None:
    if path.is_symlink():
        raise StartError(f"{path} is a link; remove it, and put the file itself there")


def _check_file(found: os.stat_result, path: Path, secret: bool, owner: int | None = None) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StartError(f"{path} is no file; move it away")
    if not HAS_OWNERS:
        return
    _check_owner(found, path, owner)
    if found.st_mode & OTHERS_WRITE:
        remedy = _remedy("go-rwx" if secret else "go-w", path, path.parent)
        raise StartError(f"other users can write to {path}; {remedy}")
    if secret and found.st_mode & OTHERS_MAY:
        if keeps_modes(path.parent):
            raise StartError(f"other users can read {path}; do: chmod go-rwx {path}")
        log.warn("{path}: {why}", path=str(path), why=NO_MODES)


def _remedy(change: str, path: Path, directory: Path) -> str:
    return f"do: chmod {change} {path}" if keeps_modes(directory) else MOUNT_ALONE


def _check_owner(found: os.stat_result, path: Path, owner: int | None) -> None:
    if found.st_uid not in (os.geteuid(), ROOT, owner):
        raise StartError(
            f"{path} belongs to user {found.st_uid}, and this process runs as user "
            f"{os.geteuid()}; run it as that user, or do: chown {os.geteuid()} {path}"
        )
