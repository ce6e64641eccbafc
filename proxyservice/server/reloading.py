"""SIGHUP: the operator's files are read on a thread, and count from one turn of the reactor on.

Reading 10,000 entries takes half a second of work. Visitors and nodes are served
meanwhile, by what was read before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure

SWITCH_SECONDS = 0.0005
"""How long the reactor may have to wait for the interpreter while files are read. By Python's
default it is 5 ms, for each of its own calls to the system."""

log = Logger()

Use = Callable[[], None]
"""What was read: to be called on the reactor's thread, makes it count, or says why it does not."""


class Reloading:
    """Readers read on the thread and touch nothing else; what comes after is told of all of them.

    One reading at a time: a SIGHUP that comes meanwhile has all files read once more
    afterwards, so that what was written last counts in the end.
    """

    def __init__(self) -> None:
        self._readers: list[Callable[[], Use]] = []
        self._afterwards: list[Callable[[], None]] = []
        self._reading = self._again = False

    def add(self, read: Callable[[], Use], afterwards: Callable[[], None]) -> None:
        """One more reader; ``afterwards`` is called when what was read counts, or is bad."""
        self._readers.append(read)
        self._afterwards.append(afterwards)

    def hangup(self) -> None:
        """Read all files, soon."""
        if self._reading:
            self._again = True
            return
        self._reading = True
        read: Any = deferToThread(self._read)
        read.addCallback(self._use).addErrback(_failed).addBoth(self._done)

    def _read(self) -> list[Use]:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            return [read() for read in self._readers]
        finally:
            sys.setswitchinterval(usual)

    def _use(self, uses: list[Use]) -> None:
        for step in (*uses, *self._afterwards):
            step()

    def _done(self, _: object) -> None:
        self._reading = False
        if self._again:
            self._again = False
            self.hangup()


def _failed(failure: Failure) -> None:
    log.failure("what was read before stays in use: this is a mistake of ours", failure)
