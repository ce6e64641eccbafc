"""What happens again and again is said once, then now and then, with a count. No clock."""

from __future__ import annotations

from dataclasses import dataclass

STILL_AWAY_SECONDS = 60.0
LONGEST_SILENCE_SECONDS = 3600.0
"""While no server can be reached it is said so after a minute, then ever more seldom."""

WELL_SECONDS = 10.0
"""Who was reachable for so long is well again: the next outage is a first one."""


@dataclass(slots=True)
class _Said:
    at: float
    interval_seconds: float
    unsaid: int = 0


class Reminders:
    """By key; at most once in ``interval_seconds`` each.

    With ``longest_seconds`` the interval doubles up to that each time.
    """

    def __init__(self, interval_seconds: float, longest_seconds: float = 0.0) -> None:
        self._interval_seconds = interval_seconds
        self._longest_seconds = longest_seconds
        self._said: dict[str, _Said] = {}

    def due(self, key: str, now: float) -> int:
        """It has happened: return how often since it was last said, or 0 when it need not be."""
        said = self._said.get(key)
        if said is None:
            self._said[key] = _Said(now, self._interval_seconds)
            return 1
        said.unsaid += 1
        if now - said.at < said.interval_seconds:
            return 0
        doubled = min(2 * said.interval_seconds, self._longest_seconds)
        said.interval_seconds = max(doubled, said.interval_seconds)
        count, said.at, said.unsaid = said.unsaid, now, 0
        return count

    def over(self, key: str) -> None:
        """It is well again: the next time is a first time."""
        self._said.pop(key, None)


class Outages:
    """Which lines about the main connection are worth saying, of all that could be said.

    An outage is told when it begins, when its reason becomes one of another
    kind, and then now and then. What follows one that was not told is not told either.
    """

    def __init__(self) -> None:
        self._reminders = Reminders(STILL_AWAY_SECONDS, LONGEST_SILENCE_SECONDS)
        self._well_since: float | None = None
        self.is_told = True
        """Whether to say that a connection or an address is there again."""
        self._is_there = False  # a connection, since the last outage

    def lost(self, server: str, kind: str, now: float, *, loud: bool = False) -> int:
        """No connection to this server: how many attempts to tell of, 0 for silence."""
        if self._well_since is not None and now - self._well_since >= WELL_SECONDS:
            self._reminders = Reminders(STILL_AWAY_SECONDS, LONGEST_SILENCE_SECONDS)
        self._well_since = None
        count = self._reminders.due(f"{kind} {server}", now) or int(loud)
        self.is_told = count > 0 or (self.is_told and not self._is_there)
        self._is_there = False
        return count

    def connected(self) -> bool:
        """There is a main connection; whether to say so."""
        self._is_there = True
        return self.is_told

    def well(self, now: float) -> None:
        """Visitors can come."""
        if self._well_since is None:
            self._well_since = now
