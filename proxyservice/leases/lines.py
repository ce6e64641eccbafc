"""The log's lines about leases: so many a second, and how many more there were.

Whoever is let in can ask, release and ask again; the log must not be what that fills.
"""

from __future__ import annotations

from collections.abc import Callable

from proxyservice.leases.buckets import Buckets

LINES_PER_SECOND = 20.0
BURST_SECONDS = 10.0
"""After a calm time so many seconds' worth of lines are written at once."""


class LeaseLines:
    """One for each service; ``write`` is its log, for people."""

    def __init__(
        self, write: Callable[..., None], lines_per_second: float = LINES_PER_SECOND
    ) -> None:
        self._write = write
        self._rate = lines_per_second
        self._burst = max(1.0, lines_per_second * BURST_SECONDS)
        self._spent = Buckets()
        self._untold = 0

    def say(self, now: float, line: str, **fields: object) -> None:
        """Write a line, or count it; `now` is a monotonic clock, in seconds."""
        if self._spent.take(self, now, self._rate, self._burst) > 0:
            self._untold += 1
            return
        untold, self._untold = self._untold, 0
        if untold:
            self._write("{untold} more lines about leases, too many to tell", untold=untold)
        self._write(line, **fields)
