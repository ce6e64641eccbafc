"""When to try again, and where: the manners of a client whose connection ended.

Three quick retries, because most losses are a restart; then 1 s doubling to
20 s with full jitter, so that thousands of nodes do not come back in step. The
server that was lost is tried first, then the others of the list. No timer and
no clock in here.
"""

from __future__ import annotations

import random
from collections.abc import Callable

QUICK_TRIES = 3
QUICK_SECONDS = 0.2
FIRST_SECONDS = 1.0
LONGEST_SECONDS = 20.0


class Retry:
    """Counts failures; ``uniform(low, high)`` draws the jitter."""

    def __init__(
        self, server_count: int, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        assert server_count > 0
        self._server_count = server_count
        self._uniform = uniform
        self._failures = 0
        self.server = 0
        """Index of the server to dial now."""

    def lost(self, *, settled: bool) -> float:
        """A connection that worked has ended: return the delay before dialling the same server.

        ``settled``: it worked for a while. One that did not still counts as a
        failure, or two processes with one identity would fight five times a second.
        """
        if settled:
            self._failures = 0
        return self._delay_seconds()

    def failed(self) -> float:
        """An attempt has failed: go on to the next server; return the delay before dialling it."""
        self.skip()
        return self._delay_seconds()

    def sent_away(self, *, settled: bool) -> float:
        """The server is about to stop: on to the next; return the delay before dialling it."""
        if settled:
            self._failures = 0
        return self.failed()

    def skip(self) -> None:
        """The server whose turn it is is no use."""
        self.server = (self.server + 1) % self._server_count

    def _delay_seconds(self) -> float:
        self._failures += 1
        if self._failures <= QUICK_TRIES:
            return QUICK_SECONDS
        doublings = min(self._failures - QUICK_TRIES - 1, 8)
        return self._uniform(0.0, min(LONGEST_SECONDS, FIRST_SECONDS * 2**doublings))
