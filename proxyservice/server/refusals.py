"""The log of refusals: so many lines a second, and how many more there were.

Whoever is refused can come again at once; the log must not be what that fills.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from proxyservice.leases.buckets import Buckets
from proxyservice.leases.lines import BURST_SECONDS
from proxyservice.text import printable

LONGEST_REASON_CHARACTERS = 300
"""A reason may quote what the peer sent, in part."""

log = Logger()


def _short(reason: str) -> str:
    return printable(reason, LONGEST_REASON_CHARACTERS)


class RefusalLog:
    """One for a service; `now` is the monotonic clock, in seconds. Lines never have a payload."""

    def __init__(self, lines_per_second: float, now: Callable[[], float]) -> None:
        self._lines_per_second = lines_per_second
        self._now = now
        self._buckets = Buckets()
        self._untold: dict[str, int] = {}

    def node(self, source: str, reason: str) -> None:
        """Somebody at this address was refused as a node."""
        if self._admits("nodes"):
            log.info("refused {source}: {reason}", source=printable(source), reason=_short(reason))

    def waits(self, source: str, reason: str) -> None:
        """A node at this address asked for a port, which it cannot have now."""
        if self._admits("requests that wait"):
            log.info(
                "the request of {source} waits for a port: {reason}", source=source, reason=reason
            )

    def visitor(self, port: int, reason: str) -> None:
        """A visitor was turned away or closed."""
        if self._admits("visitors"):
            log.info("refused a visitor of port {port}: {reason}", port=port, reason=_short(reason))

    def connection(self, source: str, reason: str) -> None:
        """Somebody at this address was not even taken."""
        if self._admits("connections"):
            log.info("took no connection of {source}: {reason}", source=source, reason=reason)

    def aborted(self, source: str, why: str) -> None:
        """The connection of somebody at this address was ended here."""
        if self._admits("aborted connections"):
            log.debug("aborting main connection of {source}: {why}", source=source, why=why)

    def memory_short(self, of_source: int, size: int, held: int, limit: int) -> None:
        """The largest holder of the source that holds most was ended."""
        if self._admits("holders of memory"):
            log.warn(
                "memory is short: of the source that holds most, {of_source} bytes, the largest "
                "goes, {size} bytes; {held} of {limit} are left",
                of_source=of_source,
                size=size,
                held=held,
                limit=limit,
            )

    def front_end(self, reason: str) -> None:
        """A connection to a port for a front end had no good header."""
        if self._admits("front ends"):
            log.info("refused a front end's connection: {reason}", reason=_short(reason))

    def _admits(self, kind: str) -> bool:
        rate = self._lines_per_second
        if self._buckets.take(kind, self._now(), rate, max(1.0, rate * BURST_SECONDS)):
            self._untold[kind] = self._untold.get(kind, 0) + 1
            return False
        untold = self._untold.pop(kind, 0)
        if untold:
            log.info("refused {untold} more {kind}, too many to tell", untold=untold, kind=kind)
        return True
