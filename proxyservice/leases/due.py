"""Things (mostly ports) with a moment at which something is due; knows no clock."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Due = TypeVar("Due", bound=Hashable)


class DueTimes(Generic[Due]):
    """Moments by what is due then: a heap with lazy deletion.

    It has at most twice the size of what is in it, and `slack`. O(log n) for each operation,
    amortised. Equal moments keep the order of their coming.
    """

    def __init__(self, slack: int = 64) -> None:
        self._slack = slack
        self._due: dict[Due, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Due]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, due: Due) -> bool:
        return due in self._due

    def __iter__(self) -> Iterator[Due]:
        return iter(self._due)

    def set(self, due: Due, at: float) -> None:
        """Replaces an earlier moment."""
        self._serial += 1
        self._due[due] = (at, self._serial)
        heapq.heappush(self._heap, (at, self._serial, due))
        self._compact()

    def discard(self, due: Due) -> bool:
        """Forget it; False when it was not in here."""
        known = self._due.pop(due, None) is not None
        self._compact()
        return known

    def soonest(self) -> tuple[float, Due] | None:
        """(moment, what) of what is due first."""
        while self._heap:
            at, serial, due = self._heap[0]
            if self._due.get(due) == (at, serial):
                return at, due
            heapq.heappop(self._heap)
        return None

    def take_due(self, now: float) -> Iterator[Due]:
        """Those whose moment has come, soonest first; they are forgotten."""
        while (first := self.soonest()) is not None and first[0] <= now:
            del self._due[first[1]]
            yield first[1]

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._due) + self._slack:
            self._heap = [(at, serial, due) for due, (at, serial) in self._due.items()]
            heapq.heapify(self._heap)
