"""Main connections by source: who has not said who it is, how many there may be, and who goes.

Strangers are bounded in all, and of one source; and of one source so many that say
nothing. A source with a node that has said who it is may leave more silent ones: its
nodes open them when they reconnect, and dial again at once when they are closed. Those
are spared, so many, and push nobody out. All connections of a source together are
bounded too. Returns who has to go; the caller ends them. Knows no clock and no
transport. O(1) but at a cap: there it is the number of sources, or of one's connections.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import chain
from typing import Generic, TypeVar

from proxyservice.server.limits import ServiceLimits

C = TypeVar("C", bound=Hashable)


class _Source(Generic[C]):
    """The connections from one address (of IPv6 its /56), oldest first."""

    __slots__ = ("identified", "silent", "spared", "strangers")

    def __init__(self) -> None:
        self.strangers: OrderedDict[C, None] = OrderedDict()
        self.silent: OrderedDict[C, float] = OrderedDict()  # those of them, and since when
        self.spared: OrderedDict[C, None] = OrderedDict()  # silent, and no strangers any more
        self.identified: OrderedDict[C, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.strangers) + len(self.spared) + len(self.identified)

    def forget(self, connection: C) -> None:
        for part in (self.strangers, self.silent, self.spared, self.identified):
            part.pop(connection, None)


class Strangers(Generic[C]):
    """All of one service; a source of None is trusted, and counts in the whole number only.

    ``useless`` says whether a connection that has said who it is might as well go.
    """

    def __init__(
        self, limits: ServiceLimits, useless: Callable[[C], bool] = lambda _: False
    ) -> None:
        self._limits = limits
        self._useless = useless
        self._source_of: dict[C, str | None] = {}
        self._sources: dict[str | None, _Source[C]] = {}
        self._strangers = 0

    def __len__(self) -> int:
        """Strangers alone."""
        return self._strangers

    def __contains__(self, connection: C) -> bool:
        name = self._source_of.get(connection)
        return connection in self._source_of and connection in self._sources[name].strangers

    def arrived(self, connection: C, source: str | None, now: float) -> C | None:
        """One more; who has to go for it, who is forgotten here already."""
        self._source_of[connection] = source
        of_source = self._sources.setdefault(source, _Source())
        of_source.strangers[connection] = None
        of_source.silent[connection] = now
        self._strangers += 1
        goes = self._silent_one_too_many(source, of_source, now)
        if goes is None and source is not None:
            goes = self._one_too_many(of_source)
        if goes is None and len(self) > self._limits.connections_without_identity:
            busiest = max(self._sources.values(), key=lambda one: len(one.strangers))
            goes = next(iter(busiest.strangers))
        if goes is not None:
            self.forget(goes)
        return goes

    def _silent_one_too_many(self, name: str | None, source: _Source[C], now: float) -> C | None:
        """Of the silent ones that had time to speak the oldest goes, or is spared."""
        if name is None or len(source.silent) <= self._limits.silent_per_source:
            return None
        silent, since = next(iter(source.silent.items()))
        if now - since < self._limits.seconds_to_speak:
            return None
        if not source.identified:
            return silent
        self._spare(source, silent)
        if len(source.spared) > self._limits.silent_spared_per_source:
            return next(iter(source.spared))
        return None

    def _one_too_many(self, source: _Source[C]) -> C | None:
        """The oldest stranger; or, of them all, one that is of no use before one that may be."""
        if len(source.strangers) > self._limits.strangers_per_source:
            return next(iter(source.strangers))
        if len(source) > self._limits.connections_per_source:
            useless = filter(self._useless, source.identified)
            return next(chain(useless, source.spared, source.strangers))
        return None

    def _spare(self, source: _Source[C], connection: C) -> None:
        del source.strangers[connection], source.silent[connection]
        source.spared[connection] = None
        self._strangers -= 1

    def spares(self, connection: C) -> bool:
        """Whether this silent one may stay though its time is up."""
        if not self.has_node(connection):
            return False
        name = self._source_of[connection]
        source = self._sources[name]
        if connection in source.spared:
            return True
        most = self._limits.silent_spared_per_source
        if name is None:
            most = self._limits.connections_without_identity
        if len(source.spared) >= most:
            return False
        self._spare(source, connection)
        return True

    def has_node(self, connection: C) -> bool:
        """Whether somebody of the same source has said who it is; of one that had to go: no."""
        if connection not in self._source_of:
            return False
        return bool(self._sources[self._source_of[connection]].identified)

    def spoke(self, connection: C) -> C | None:
        """Its first byte came; who has to go, if a spared one is a stranger again."""
        if connection not in self._source_of:
            return None
        name = self._source_of[connection]
        source = self._sources[name]
        source.silent.pop(connection, None)
        if connection not in source.spared:
            return None
        del source.spared[connection]
        source.strangers[connection] = None
        self._strangers += 1
        goes = None if name is None else self._one_too_many(source)
        if goes is not None:
            self.forget(goes)
        return goes

    def identified(self, connection: C) -> None:
        """It said who it is."""
        if connection not in self._source_of:
            return
        source = self._sources[self._source_of[connection]]
        self._strangers -= connection in source.strangers
        source.forget(connection)
        source.identified[connection] = None

    def forget(self, connection: C) -> None:
        """It is gone."""
        if connection not in self._source_of:
            return
        name = self._source_of.pop(connection)
        source = self._sources[name]
        self._strangers -= connection in source.strangers
        source.forget(connection)
        if not len(source):
            del self._sources[name]
