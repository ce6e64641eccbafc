"""Whose turn it is: start-time fair queuing by bytes.

Several sources share one connection. Each has a virtual time, the bytes it has
sent; the one with the least goes next. A source that comes back after a rest
starts at the present virtual time, so nobody saves up and nobody is punished
for ever. This is deficit round robin without rounds: a source that is due has
the least virtual time, every competitor passes it after at most one quantum,
so it waits for at most one quantum of each.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

LEAST_CHARGE_BYTES = 256
"""What any sending costs at least: a tiny frame is work too (Envoy CVE-2020-12603)."""


class FairQueue(Generic[T]):
    """The sources that have data and wait; every operation is O(log n).

    Sources are compared by identity of hash and equality, as in a dict. What a
    forgotten source leaves behind in the heap is dropped when it surfaces, or
    when such leftovers outnumber those who wait.
    """

    def __init__(self) -> None:
        self._now = 0
        self._virtual: dict[T, int] = {}
        self._waiting: dict[T, int] = {}  # source -> serial of its valid heap entry
        self._heap: list[tuple[int, int, T]] = []
        self._serial = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self, source: T) -> None:
        """The source has data and wants a turn; asking twice changes nothing."""
        if source in self._waiting:
            return
        start = self._virtual[source] = max(self._virtual.get(source, 0), self._now)
        serial = self._waiting[source] = next(self._serial)
        heapq.heappush(self._heap, (start, serial, source))

    def next(self) -> T | None:
        """Take the source that has sent least out of the queue; None when nobody waits."""
        while self._heap:
            start, serial, source = heapq.heappop(self._heap)
            if self._waiting.get(source) == serial:
                del self._waiting[source]
                self._now = max(self._now, start)
                return source
        return None

    def charge(self, source: T, n_bytes: int) -> None:
        """The source sent so many bytes, in its turn or while there was no queue."""
        start = max(self._virtual.get(source, 0), self._now)
        self._virtual[source] = start + max(n_bytes, LEAST_CHARGE_BYTES)
        if not self._waiting:
            # Nobody waits: the time of whoever sends is the present.
            self._now = start

    def forget(self, source: T) -> None:
        """The source is gone; unknown ones are ignored."""
        self._virtual.pop(source, None)
        self._waiting.pop(source, None)
        if len(self._heap) > 2 * len(self._waiting) + 64:
            self._heap = [entry for entry in self._heap if self._waiting.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)
