"""How often something may happen for each of many: token buckets that forget; no clock here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from math import inf


class Buckets:
    """One token bucket for each key: a burst at once, then so many a second.

    O(1) for each event. A bucket that is full again is as good as a new one
    and is forgotten, two at each event, so their number follows the events.
    """

    def __init__(self) -> None:
        self._spent: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._spent)

    def take(self, key: Hashable, now: float, per_second: float, burst: float) -> float:
        """Count one event and return 0, or return how many seconds are missing, uncounted."""
        span = burst / per_second
        until, _ = self._spent.pop(key, (-inf, 0.0))
        after = max(until, now - span) + 1 / per_second
        wait = max(0.0, after - now)
        self._spent[key] = (until if wait else after, span)
        self._forget(now)
        return wait

    def wait_seconds(self, key: Hashable, now: float, per_second: float, burst: float) -> float:
        """What `take` would return; counts nothing."""
        until, _ = self._spent.get(key, (-inf, 0.0))
        return max(0.0, max(until, now - burst / per_second) + 1 / per_second - now)

    def _forget(self, now: float) -> None:
        for _ in range(2):
            key, (until, span) = next(iter(self._spent.items()))
            if until > now - span or len(self._spent) == 1:
                return
            del self._spent[key]
