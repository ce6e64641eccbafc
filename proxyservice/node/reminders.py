"""What happens again and again is said once, then now and then, with a count. No clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Said:
    at: float
    unsaid: int = 0


class Reminders:
    """By key; at most once in ``interval_seconds`` each."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._said: dict[str, _Said] = {}

    def due(self, key: str, now: float) -> int:
        """It has happened: return how often since it was last said, or 0 when it need not be."""
        said = self._said.get(key)
        if said is None:
            self._said[key] = _Said(now)
            return 1
        said.unsaid += 1
        if now - said.at < self._interval_seconds:
            return 0
        count, said.at, said.unsaid = said.unsaid, now, 0
        return count

    def over(self, key: str) -> None:
        """It is well again: the next time is a first time."""
        self._said.pop(key, None)
