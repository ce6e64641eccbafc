"""Ports with a moment at which something is due; knows no clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterator


class DueTimes:
    """Moments by port: a heap with lazy deletion, of at most twice the size of what is in it.

    O(log n) for each operation, amortised. Equal moments keep the order of their coming.
    """

    def __init__(self) -> None:
        self._due: dict[int, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, int]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, port: int) -> bool:
        return port in self._due

    def __iter__(self) -> Iterator[int]:
        return iter(self._due)

    def set(self, port: int, at: float) -> None:
        """Replaces an earlier moment of the port."""
        self._serial += 1
        self._due[port] = (at, self._serial)
        heapq.heappush(self._heap, (at, self._serial, port))
        self._compact()

    def discard(self, port: int) -> bool:
        """Forget the port; False when it was not in here."""
        known = self._due.pop(port, None) is not None
        self._compact()
        return known

    def soonest(self) -> tuple[float, int] | None:
        """(moment, port) of what is due first."""
        while self._heap:
            at, serial, port = self._heap[0]
            if self._due.get(port) == (at, serial):
                return at, port
            heapq.heappop(self._heap)
        return None

    def take_due(self, now: float) -> Iterator[int]:
        """The ports whose moment has come, soonest first; they are forgotten."""
        while (first := self.soonest()) is not None and first[0] <= now:
            del self._due[first[1]]
            yield first[1]

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = [(at, serial, port) for port, (at, serial) in self._due.items()]
            heapq.heapify(self._heap)
