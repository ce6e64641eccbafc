"""How often a live holder may be displaced from elsewhere; knows no clock."""

from __future__ import annotations

from math import inf

BURST = 5
SECONDS_EACH = 10.0
"""A node that changes networks needs one or two; two nodes that fight would go on for ever
(coturn GHSA-hpq3-g7x4-h7xx)."""


class TakeoverBucket:
    """`burst` takeovers at once, then one each `seconds_each`; one bucket for each lease."""

    def __init__(self, burst: int = BURST, seconds_each: float = SECONDS_EACH) -> None:
        self._span = burst * seconds_each
        self._each = seconds_each
        self._spent_until = -inf  # each takeover moves it on; full when `span` in the past

    def wait_seconds(self, now: float) -> float:
        """How long until a takeover is allowed; 0: now. Counts nothing."""
        return max(0.0, self._after_one_more(now) - now)

    def take(self, now: float) -> float:
        """Count one takeover and return 0, or return how long to wait and count nothing."""
        wait = self.wait_seconds(now)
        if wait == 0:
            self._spent_until = self._after_one_more(now)
        return wait

    def is_full(self, now: float) -> bool:
        """It is as good as a new one and may be forgotten."""
        return self._spent_until <= now - self._span

    def _after_one_more(self, now: float) -> float:
        return max(self._spent_until, now - self._span) + self._each
