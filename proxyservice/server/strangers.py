"""Connections that have not said who they are: how many there may be, and who goes.

In all, and of one source; and of one source so many that say nothing. Returns
who has to go; the caller ends them. Knows no clock and no transport. O(1) but
for the whole number's cap, where it is the number of sources.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from proxyservice.server.limits import ServiceLimits

C = TypeVar("C", bound=Hashable)


class _Source(Generic[C]):
    """The strangers from one address (of IPv6 its /56), oldest first."""

    __slots__ = ("silent", "strangers")

    def __init__(self) -> None:
        self.strangers: OrderedDict[C, None] = OrderedDict()
        self.silent: OrderedDict[C, float] = OrderedDict()  # since when


class Strangers(Generic[C]):
    """All of one service; a source of None is trusted, and counts in the whole number only."""

    def __init__(self, limits: ServiceLimits) -> None:
        self._limits = limits
        self._source_of: dict[C, str | None] = {}
        self._sources: dict[str | None, _Source[C]] = {}

    def __len__(self) -> int:
        return len(self._source_of)

    def __contains__(self, connection: C) -> bool:
        return connection in self._source_of

    def arrived(self, connection: C, source: str | None, now: float) -> C | None:
        """One more; who has to go for it, who is forgotten here already."""
        self._source_of[connection] = source
        of_source = self._sources.setdefault(source, _Source())
        of_source.strangers[connection] = None
        of_source.silent[connection] = now
        goes = None if source is None else self._one_too_many(of_source, now)
        if goes is None and len(self) > self._limits.connections_without_identity:
            busiest = max(self._sources.values(), key=lambda one: len(one.strangers))
            goes = next(iter(busiest.strangers))
        if goes is not None:
            self.forget(goes)
        return goes

    def _one_too_many(self, source: _Source[C], now: float) -> C | None:
        """The oldest silent one, if there are too many that had time to speak; else the oldest."""
        if len(source.silent) > self._limits.silent_per_source:
            silent, since = next(iter(source.silent.items()))
            if now - since >= self._limits.seconds_to_speak:
                return silent
        if len(source.strangers) > self._limits.strangers_per_source:
            return next(iter(source.strangers))
        return None

    def spoke(self, connection: C) -> None:
        """Its first byte came."""
        if connection in self._source_of:
            self._sources[self._source_of[connection]].silent.pop(connection, None)

    def forget(self, connection: C) -> None:
        """It said who it is, or is gone."""
        if connection not in self._source_of:
            return
        name = self._source_of.pop(connection)
        source = self._sources[name]
        del source.strangers[connection]
        source.silent.pop(connection, None)
        if not source.strangers:
            del self._sources[name]


class Admission:
    """How many connections are taken in a second; those beyond wait in the kernel's backlog."""

    def __init__(self, per_second: float) -> None:
        self._each = 1 / per_second
        self._until = 0.0

    def admitted(self, now: float) -> float:
        """One more was taken; how long to rest before the next, a second's worth being free."""
        self._until = max(self._until, now - 1) + self._each
        return max(0.0, self._until - now)
