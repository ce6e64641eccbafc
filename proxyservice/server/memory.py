"""All bytes of peers that wait in this process, in one sum, and what follows when it is large.

In steps, so that those who are there suffer last: windows grow no more, no
visitor comes in, who holds most goes, no node comes in. Counts bytes that wait
for somebody else: frames that are not complete, and what a slow reader has not
taken. O(1) for each change; finding who holds most looks at those that hold
anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

WINDOWS_SHARE = 0.70
VISITORS_SHARE = 0.80
LARGEST_SHARE = 0.90
NODES_SHARE = 0.95

log = Logger()


class Holder(Protocol):
    """Somebody for whom bytes wait."""

    def memory_short(self) -> None:
        """It holds most of all: it ends, and so do its bytes."""


class Memory:
    """One for a service. ``windows`` is told when they may no longer grow, and when they may."""

    def __init__(self, limit_bytes: int, windows: Callable[[bool], None] | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._windows = windows
        self._held: dict[Holder, int] = {}
        self.held_bytes = 0
        """Of all holders together."""
        self.windows_grow = True
        """Windows of streams may grow."""

    def __len__(self) -> int:
        """How many hold anything."""
        return len(self._held)

    def hold(self, holder: Holder, n_bytes: int) -> None:
        """So many bytes wait for this one now; 0: none any more."""
        before = self._held.pop(holder, 0)
        if n_bytes:
            self._held[holder] = n_bytes
        self.held_bytes += n_bytes - before
        if self._share > LARGEST_SHARE:
            self._make_room()
        if self.windows_grow != (self._share < WINDOWS_SHARE):
            self._tell_windows()

    @property
    def _share(self) -> float:
        return self.held_bytes / self._limit_bytes

    @property
    def room_for_visitor(self) -> bool:
        """One more may come."""
        return self._share < VISITORS_SHARE

    @property
    def room_for_node(self) -> bool:
        """One more may come."""
        return self._share < NODES_SHARE

    def _make_room(self) -> None:
        while self._share > LARGEST_SHARE:
            largest = max(self._held, key=self._held.__getitem__)
            n_bytes = self._held.pop(largest)
            self.held_bytes -= n_bytes
            log.warn(
                "memory is short: who holds most, {size} bytes, goes; {held} of {limit} are left",
                size=n_bytes,
                held=self.held_bytes,
                limit=self._limit_bytes,
            )
            largest.memory_short()

    def _tell_windows(self) -> None:
        self.windows_grow = not self.windows_grow
        if self._windows is not None:
            self._windows(self.windows_grow)
