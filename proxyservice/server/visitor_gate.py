"""Which visitors a proxy port takes: of one address, of one lease, by the node's rules.

Whoever is turned away sees RST; the node does not notice. O(1) for each visitor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeVar

from proxyservice.leases.buckets import Buckets
from proxyservice.leases.lease import Owner
from proxyservice.leases.quota import counted_source
from proxyservice.server.memory import Memory
from proxyservice.server.rules import Rules
from proxyservice.server.settings import ServiceSettings
from proxyservice.server.sources import Sources

V = TypeVar("V")

_source_of = lru_cache(maxsize=4096)(counted_source)  # the same few come again and again


class VisitorGate:
    """One for a service; `now` is the monotonic clock, in seconds."""

    def __init__(
        self, settings: ServiceSettings, sources: Sources, memory: Memory, now: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._counted_as = sources.counted_as
        self._memory = memory
        self._now = now
        self._open_of: dict[str, int] = {}
        self._hosts: dict[object, str] = {}
        self._arrivals = Buckets()

    def most(self, rules: Rules) -> int:
        """Visitors that one lease may have open."""
        limit = self._settings.limits.visitors_per_lease
        return limit if rules.visitors is None else min(limit, rules.visitors)

    def rate(self, rules: Rules) -> float:
        """New visitors of one lease a second; 0: any number."""
        return rules.visitors_per_second or self._settings.limits.visitor_rate_per_lease

    def refusal(
        self, owner: Owner, open_visitors: int, host: str, rules: Rules, *, waited: bool = False
    ) -> str | None:
        """Why this visitor may not come; None: it may, and counts from here on for rates.

        One that has ``waited`` for the node was asked when it came, and has counted.
        """
        limits, source = self._settings.limits, self._counted_as(host)
        if not rules.allows_visitor(host):
            return "its address is not allowed, see visitor_allow and visitor_deny in --policy"
        if not self._memory.room_for_visitor_of(source):
            return "memory is short, see --limit memory-bytes and memory-share-per-source"
        if open_visitors >= self.most(rules):
            return "too many visitors, see --limit visitors-per-lease and visitors in --policy"
        if source is not None and self._open_of.get(source, 0) >= limits.visitors_per_source:
            return "too many visitors from its address, see --limit visitors-per-source"
        return None if waited else self._too_fast(owner, source, rules)

    def _too_fast(self, owner: Owner, source: str | None, rules: Rules) -> str | None:
        now, limits = self._now(), self._settings.limits
        if source is not None:
            rate, burst = limits.visitor_rate_per_source, limits.visitor_burst_per_source
            if self._arrivals.take(source, now, rate, burst):
                return (
                    "too many visitors a second of its address, see --limit visitor-rate-per-source"
                )
        rate = self.rate(rules)
        if rate and self._arrivals.take(owner, now, rate, max(1.0, rate)):
            return (
                "too many visitors a second, see --limit visitor-rate-per-lease and "
                "visitors_per_second in --policy"
            )
        return None

    def unwelcome(self, visitors: Iterable[V], rules: Rules) -> list[V]:
        """Those who are there and would not be let in by these rules."""
        return [one for one in visitors if not rules.allows_visitor(self._hosts[one])]

    def came(self, visitor: object, host: str) -> None:
        """It was let in."""
        source = _source_of(host)
        self._hosts[visitor] = host
        self._open_of[source] = self._open_of.get(source, 0) + 1

    def gone(self, visitor: object) -> None:
        """It is closed."""
        source = _source_of(self._hosts.pop(visitor))
        left = self._open_of[source] - 1
        if left:
            self._open_of[source] = left
        else:
            del self._open_of[source]
