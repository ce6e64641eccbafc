"""Simulated time: it jumps from one event to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Call:
    """Something that is going to happen; as good as one of Twisted's delayed calls."""

    __slots__ = ("args", "at", "call", "kwargs", "owner", "pending", "timeline")

    def __init__(
        self, timeline: Timeline, at: float, call: Any, args: Any, kwargs: Any, owner: Any
    ) -> None:
        self.timeline, self.at, self.pending = timeline, at, True
        self.call, self.args, self.kwargs = call, args, kwargs
        self.owner = owner

    def active(self) -> bool:
        return self.pending

    def getTime(self) -> float:
        return self.at

    def cancel(self) -> None:
        assert self.pending, "cancelled after it happened"
        self.pending = False

    def reset(self, seconds: float) -> None:
        """From now."""
        assert self.pending, "reset after it happened"
        self.at = self.timeline.now + seconds
        self.timeline.push(self)


class Timeline:
    """All that is going to happen, in order; `turn` follows each event."""

    def __init__(self, turn: Callable[[], None]) -> None:
        self.now = 0.0
        self._turn = turn
        self._heap: list[tuple[float, int, Call]] = []
        self._serial = 0

    def after(self, seconds: float, call: Callable[..., Any], *args: Any) -> Call:
        return self.schedule(seconds, call, args, {}, None)

    def schedule(self, seconds: float, call: Any, args: Any, kwargs: Any, owner: Any) -> Call:
        assert seconds >= 0, "time goes one way"
        planned = Call(self, self.now + seconds, call, args, kwargs, owner)
        self.push(planned)
        return planned

    def push(self, planned: Call) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (planned.at, self._serial, planned))

    def run(self, until: float) -> None:
        """What is due until then, one after the other."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            at, _, planned = heapq.heappop(heap)
            if not planned.pending or planned.at != at:
                continue
            self.now, planned.pending = at, False
            planned.call(*planned.args, **planned.kwargs)
            self._turn()
        self.now = until

    def owned_by(self, owner: object) -> list[Call]:
        return [one for *_, one in self._heap if one.pending and one.owner is owner]
