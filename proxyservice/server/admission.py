"""How many main connections are taken in a second: in all, and of each source.

What is beyond a source's share is closed as it comes, which costs little, and
nobody waits for it. Shares are smaller while more come than can be served: so
few sources together do not use up what there is for all. Only when trusted
sources, or very many others, bring more than that does the port rest, and the
kernel keeps them for a moment. Knows no clock and no transport. O(1) each.
"""

from __future__ import annotations

from math import inf

from proxyservice.leases.buckets import Buckets
from proxyservice.server.limits import ServiceLimits

SHARES_SHRINK_FROM = 0.5
"""Of what is taken in a second: from here on each source's share is smaller."""

SMALLEST_SHARE = 0.04
"""Of a source's usual rate: a node that was not here lately comes in. Of its burst the square."""


class Admission:
    """One for a service; `now` is the monotonic clock, in seconds."""

    def __init__(self, limits: ServiceLimits) -> None:
        self._limits = limits
        self._each = 1 / limits.connections_a_second
        self._until = -inf
        self._sources = Buckets()

    def __len__(self) -> int:
        """Sources that have come lately."""
        return len(self._sources)

    def admits(self, source: str, now: float) -> bool:
        """Whether one more of this source may come; if so it is counted."""
        limits = self._limits
        used = min(1.0, max(0.0, self._until - now + 1))
        share = min(1.0, max(SMALLEST_SHARE, (1 - used) / (1 - SHARES_SHRINK_FROM)))
        rate = limits.connections_a_second_per_source * share
        burst = max(1.0, limits.connection_burst_per_source * share * share)
        return not self._sources.take(source, now, rate, burst)

    def taken(self, now: float) -> float:
        """One more was taken; how long to rest before the next, a second's worth being free."""
        self._until = max(self._until, now - 1) + self._each
        return max(0.0, self._until - now)
