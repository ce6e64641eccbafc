"""From a state directory, in use or not, to a backup file that was not there before."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from proxyservice import __version__
from proxyservice.backup.archive import (
    COPIED_BYTES,
    FILE_LIMIT_BYTES,
    LOG_ENDS,
    MOST_FILES,
    OPTIONS,
    STATE,
    Entry,
    Manifest,
    is_name,
    write,
)
from proxyservice.errors import StartError
from proxyservice.leases.copying import copy_store
from proxyservice.leases.store import FILE_NAME, store_url
from proxyservice.running import RUNNING_FILE, Running
from proxyservice.server.relay_id import SECRET_FILE
from proxyservice.state import RESTORED, RESTORING, refuse_unfinished
from proxyservice.state_lock import LOCK_FILE

_NOT_STATE = frozenset({LOCK_FILE, RUNNING_FILE, RESTORED, RESTORING, "twistd.pid"})
"""Of this machine and run alone."""


@dataclass(slots=True)
class Saved:
    """What is in a backup, and what had to be left out, each for people."""

    manifest: Manifest
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Source:
    name: str  # in the archive
    path: Path
    option: str = ""


def save(directory: Path, file: Path, wall_now: float) -> Saved:
    """Write all of the state into a new file, mode 0600. Raises StartError and StoreError.

    On any error nothing is left of it.
    """
    _check_place(directory, file)
    running = Running.read(directory)
    store, database = _store(directory, running)
    with _work_beside(file) as work:
        elsewhere = str(store) if store is not None and not _inside(directory, store) else ""
        saved = Saved(Manifest(wall_now, __version__, database, elsewhere))
        sources = list(_sources(directory, running, store, saved))
        if store is not None:
            _check_identity(directory)
            copy = Path(work, "leases")
            os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            copy_store(store, copy)
            sources.insert(0, _Source(database, copy))
        elif not sources:
            raise StartError(f"there is nothing to back up in {directory}")
        partial = Path(work, "backup")
        _write(partial, sources, saved)
        _put_new(partial, file)
    return saved


@contextmanager
def _work_beside(file: Path) -> Iterator[str]:
    """A folder for what is not complete yet, on the same file system. Raises StartError."""
    try:
        work = tempfile.TemporaryDirectory(prefix=f".{file.name[:100]}.", dir=file.parent)
    except OSError as error:
        raise StartError(f"cannot make {file}: {error.strerror}") from None
    with work as name:
        yield name


def _check_place(directory: Path, file: Path) -> None:
    if not directory.is_dir():
        raise StartError(f"there is no state directory {directory}; name it with --state-dir")
    refuse_unfinished(directory)
    if os.path.lexists(file):
        raise StartError(f"{file} is there already; name a new file")
    if directory.resolve() in file.absolute().parent.resolve().joinpath(file.name).parents:
        raise StartError(f"{file} would be lost together with {directory}; name another place")


def _check_identity(directory: Path) -> None:
    """Leases without it would be of no use: no node would know the relay again."""
    if not (directory / SECRET_FILE).exists():
        raise StartError(
            f"there is no {SECRET_FILE} in {directory}; name the service's own --state-dir"
        )


def _store(directory: Path, running: Running) -> tuple[Path | None, str]:
    """Where the leases are, and their name in a backup, empty where there are none on disk."""
    url = running.store or store_url("", directory)
    if url == "memory:":
        return None, ""
    store = Path(url.removeprefix("sqlite:///"))
    if not store.exists():
        if running.store:
            raise StartError(f"there is no store {store}, where the service kept its leases")
        return None, ""
    inside = _inside(directory, store)
    return store, f"{STATE}/{inside or FILE_NAME}"


def _inside(directory: Path, path: Path) -> str:
    """Its name in the state directory; empty for one that is elsewhere, or hidden there."""
    try:
        name = path.resolve().relative_to(directory.resolve()).as_posix()
    except ValueError:
        return ""
    return name if is_name(f"{STATE}/{name}") else ""


def _sources(
    directory: Path, running: Running, store: Path | None, saved: Saved
) -> Iterator[_Source]:
    """All but the store: what lies in the state directory, and what options named elsewhere."""
    named = {option: Path(text) for option, text in running.files.items()}
    kept = {inside for path in named.values() if (inside := _inside(directory, path))}
    database = {directory / FILE_NAME} | ({store} if store is not None else set())
    beside = {path.with_name(path.name + end) for path in database for end in ("", *LOG_ENDS)}
    for path in _files(directory):
        name = path.relative_to(directory).as_posix()
        if path in beside or (_is_not_state(name) and name not in kept):
            if name.startswith(f"{RESTORED}/"):
                saved.left_out.append(f"{path}: no option of the service names it")
            continue
        if _fits(path, f"{STATE}/{name}", saved):
            yield _Source(f"{STATE}/{name}", path)
    for option, path in named.items():
        if not _inside(directory, path):
            name = f"{OPTIONS}/{option}/{path.name}"
            name = name if is_name(name) else f"{OPTIONS}/{option}/{option}"
            if _fits(path, name, saved):
                yield _Source(name, path, option)


def _is_not_state(name: str) -> bool:
    first = name.partition("/")[0]
    return first in _NOT_STATE or any(part.startswith(".") for part in name.split("/"))


def _files(directory: Path) -> Iterator[Path]:
    """Everything in it that is no directory, in a fixed order."""
    for folder, folders, names in os.walk(directory):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in links)


def _fits(path: Path, name: str, saved: Saved) -> bool:
    """Whether it can be in a backup; else it is said why not."""
    try:
        found = path.stat() if name.startswith(OPTIONS) else path.lstat()
    except OSError as error:
        if path.parent.exists() or name.startswith(OPTIONS):
            saved.left_out.append(f"{path}: {error.strerror}")
        return False
    why = ""
    if not stat.S_ISREG(found.st_mode):
        why = "no ordinary file"
    elif not is_name(name):
        why = "its name is too long or cannot be shown"
    elif found.st_size > FILE_LIMIT_BYTES:
        why = f"over {FILE_LIMIT_BYTES >> 20} MiB"
    if why:
        saved.left_out.append(f"{str(path)!r}: {why}" if "name" in why else f"{path}: {why}")
    return not why


def _write(partial: Path, sources: list[_Source], saved: Saved) -> None:
    if len(sources) > MOST_FILES:
        raise StartError(f"there are over {MOST_FILES} files in the state directory")
    with ExitStack() as opened:
        contents: list[BinaryIO] = []
        for source in sources:
            contents.append(opened.enter_context(_open(source)))
            size, digest = _measured(contents[-1])
            outside = str(source.path) if source.option else ""
            saved.manifest.files.append(Entry(source.name, size, digest, source.option, outside))
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                write(file, saved.manifest, iter(contents))
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            raise StartError(f"cannot write the backup: {error.strerror}") from None


def _open(source: _Source) -> BinaryIO:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        # what an option names may be a link, as in Let's Encrypt's live directory
        return os.fdopen(
            os.open(source.path, flags if source.option else flags | os.O_NOFOLLOW), "rb"
        )
    except OSError as error:
        raise StartError(f"cannot read {source.path}: {error.strerror}") from None


def _measured(file: BinaryIO) -> tuple[int, str]:
    """Size and SHA-256 of an open file, which is then at its beginning again."""
    size, digest = 0, sha256()
    while data := file.read(COPIED_BYTES):
        size += len(data)
        digest.update(data)
    file.seek(0)
    return size, digest.hexdigest()


def _put_new(partial: Path, file: Path) -> None:
    """In its place, whole, unless something has come there meanwhile."""
    try:
        try:
            os.link(partial, file)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            partial.replace(file)
        descriptor = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StartError(f"cannot make {file}: {error.strerror}") from None
