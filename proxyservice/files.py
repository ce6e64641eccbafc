"""Small files that this package keeps: written whole or not at all, on disk when that is said.

Two ways, by whether a file may be there already. Both make it readable by its
owner alone: what is kept is a key, a secret, or what is trusted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def create_private(path: Path, content: bytes) -> None:
    """Put a new file in its place, mode 0600. Raises OSError, also when there is one."""
    _write_beside(path, content, _rename_if_absent)


def replace_private(path: Path, content: bytes) -> None:
    """Put a file in its place, mode 0600, whatever was there. Raises OSError."""
    _write_beside(path, content, os.replace)


def _write_beside(path: Path, content: bytes, put: Callable[[Path, Path], None]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)  # of a process that had this number, and died
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
    os.link(partial, path)  # fails when there is one, as rename would not


def _sync_directory(directory: Path) -> None:
    """A new name survives a loss of power only when its directory is on disk too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
