"""Who is late: one ordered set of deadlines for a whole service, and no timer in it.

Connections come by the thousand and most deadlines never fall due, so nobody
owns a timer: whoever has a deadline puts it in here, and one tick per service
asks for those that have passed. Knows no clock; `now` is an argument.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import Protocol


class Punctual(Protocol):
    """Something with a deadline."""

    def deadline_passed(self, now: float) -> float | None:
        """Act on being late, or find that it is not; return the next deadline, if any."""


class Deadlines:
    """A heap with lazy deletion; every operation is O(log n).

    The heap is rebuilt when abandoned entries outnumber the valid ones, so its
    size stays within twice the number of deadlines.
    """

    def __init__(self) -> None:
        self._due: dict[Punctual, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Punctual]] = []
        self._serial = count()

    def __len__(self) -> int:
        return len(self._due)

    def set(self, owner: Punctual, at: float) -> None:
        """Owner is late from `at` (seconds of the caller's clock) on; replaces an earlier entry."""
        serial = next(self._serial)
        self._due[owner] = (at, serial)
        heapq.heappush(self._heap, (at, serial, owner))
        self._compact()

    def forget(self, owner: Punctual) -> None:
        """Owner has no deadline any more; unknown owners are ignored."""
        self._due.pop(owner, None)
        self._compact()

    def tick(self, now: float) -> None:
        """Tell everybody who is late by `now`, and note their next deadlines."""
        for owner in self._take(now):
            again = owner.deadline_passed(now)
            if again is not None and owner not in self._due:
                self.set(owner, again)

    def _take(self, now: float) -> list[Punctual]:
        late = []
        while self._heap and self._heap[0][0] <= now:
            at, serial, owner = heapq.heappop(self._heap)
            if self._due.get(owner) == (at, serial):
                del self._due[owner]
                late.append(owner)
        return late

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = [(at, serial, owner) for owner, (at, serial) in self._due.items()]
            heapq.heapify(self._heap)
