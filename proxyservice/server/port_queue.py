"""Nodes of part A that have asked for a port when none was left: their requests wait.

There is no refusal that they understand, and after a close a deployed node with
backoff never asks again; an answer that comes late it takes. Waiting is bounded
in number, in all and of one source, and in time. Whoever waits longest is
answered first. Knows no frames; what a request is, and how it is asked again,
is its connection's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.net.deadlines import Deadlines
from proxyservice.server.limits import ServiceLimits
from proxyservice.wire import proxyservice_pb2 as pb

LOOK_SECONDS = 0.25
"""How often it is looked whether there is a port."""

AGAIN_SECONDS = 1.0
"""A request that was refused once more (no descriptor, a store that fails) is asked so often."""


class Waiter(Protocol):
    """A connection whose request waits."""

    def ask_again(self) -> None:
        """There may be a port now. It waits no more, and may come back."""

    def waited_in_vain(self, error: RefusedError) -> None:
        """Its wait is over; nothing will come of it."""


@dataclass(frozen=True, slots=True)
class _Place:
    owner: Owner
    source: str | None
    until: float
    not_before: float


class PortQueue:
    """One for a service; a source of None is trusted, and counts in the whole number only."""

    def __init__(
        self,
        registry: LeaseRegistry,
        deadlines: Deadlines,
        now: Callable[[], float],
        limits: ServiceLimits,
    ) -> None:
        self._registry = registry
        self._deadlines = deadlines
        self._now = now
        self._limits = limits
        self._places: OrderedDict[Waiter, _Place] = OrderedDict()  # whoever waits longest first
        self._serving = False
        self._watched = False  # there is a next look

    def __len__(self) -> int:
        return len(self._places)

    def wait(
        self, waiter: Waiter, owner: Owner, source: str | None, since: float | None = None
    ) -> float:
        """One more; whoever has to go for it is told, and that may be itself.

        Returns the moment from which its time counts. Who has asked again in vain names that,
        and has its place again.
        """
        now = self._now()
        began = now if since is None else since
        not_before = now if since is None else now + AGAIN_SECONDS
        until = began + self._limits.port_wait_seconds
        self._places[waiter] = _Place(owner, source, until, not_before)
        self._places.move_to_end(waiter, last=since is None)
        if not self._watched:
            self._watched = True
            self._deadlines.set(self, now + LOOK_SECONDS)
        goes = self._one_too_many(source)
        if goes is not None:
            self._end(goes, "no port is left, and too many wait for one")
        return began

    def _one_too_many(self, source: str | None) -> Waiter | None:
        """Of a source that has too many, or else of the one that has most, the oldest.

        Of sources that have as many, the one that came last: else 256 sources with one each
        would drive out whoever is next to be answered.
        """
        by_source: dict[str | None, list[Waiter]] = {}
        for waiter, place in self._places.items():
            by_source.setdefault(place.source, []).append(waiter)
        if source is not None and len(by_source[source]) > self._limits.port_waiters_per_source:
            return by_source[source][0]
        if len(self._places) > self._limits.port_waiters:
            return max(reversed(by_source.values()), key=len)[0]
        return None

    def _end(self, waiter: Waiter, why: str) -> None:
        del self._places[waiter]
        waiter.waited_in_vain(RefusedError(pb.REFUSAL_EXHAUSTED, why))

    def forget(self, waiter: Waiter) -> None:
        """Its connection has ended."""
        self._places.pop(waiter, None)

    def serve(self) -> None:
        """Somebody else is about to ask: whoever waits comes first."""
        while self._places and not self._serving:
            waiter, place = next(iter(self._places.items()))
            if place.not_before > self._now() or not self._registry.has_port():
                return
            self._ask(waiter)

    def _ask(self, waiter: Waiter) -> None:
        del self._places[waiter]
        self._serving = True
        try:
            waiter.ask_again()
        finally:
            self._serving = False

    def deadline_passed(self, now: float) -> float | None:
        """The tick: ask again where that may help, and end what has waited too long."""
        for waiter, place in list(self._places.items()):
            if self._places.get(waiter) is not place:
                continue  # it went for another one's sake
            if now >= place.until:
                self._end(waiter, "no port became free")
            elif now >= place.not_before and self._may_help(place.owner):
                self._ask(waiter)
        self._watched = bool(self._places)
        return now + LOOK_SECONDS if self._watched else None

    def _may_help(self, owner: Owner) -> bool:
        """A port is left, or its owner has one by now: by another connection."""
        return self._registry.has_port() or self._registry.port_of(owner) is not None
