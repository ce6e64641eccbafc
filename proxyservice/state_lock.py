"""One process at a time changes a state directory: the service while it runs, or a restore."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from proxyservice.errors import StartError
from proxyservice.ownership import open_own

LOCK_FILE = "lock"


class StateLock:
    """Held from `take` to `release`; the kernel lets go of it when the process dies.

    ``owner``: of the directory, for whom root may hold it; the lock then stays his.
    """

    def __init__(self, directory: Path, owner: int | None = None) -> None:
        self._path = directory / LOCK_FILE
        self._owner = owner
        self._descriptor = -1

    def take(self) -> None:
        """Raises StartError, naming the process that has it."""
        try:
            self._descriptor = open_own(self._path, os.O_RDWR | os.O_CREAT, owner=self._owner)
            if self._owner not in (None, os.geteuid()):
                os.fchown(self._descriptor, self._owner, -1)
        except OSError as error:
            raise StartError(f"cannot open {self._path}: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, b"%d\n" % os.getpid())
        except BlockingIOError:
            holder = os.read(self._descriptor, 20).decode(errors="replace").strip() or "unknown"
            self.release()
            raise StartError(
                f"{self._path.parent} is in use by process {holder}; "
                "stop it or choose another --state-dir"
            ) from None
        except OSError as error:
            self.release()
            raise StartError(f"cannot lock {self._path}: {error.strerror}") from None

    def release(self) -> None:
        """Let the next one in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
