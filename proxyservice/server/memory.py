"""All bytes of peers that wait in this process, in one sum, and what follows when it is large.

Counted by holder and by the source that it comes from. A source may hold a share of
what all the others leave, so one alone cannot fill the memory; a holder that would
grow beyond it makes the largest of its source go. Of the whole, in steps, so that
those who are there suffer last: windows grow no more, no visitor comes in, the
largest holder of the source that holds most goes, no node comes in. Counts bytes that
wait for somebody else: frames that are not complete, and what a slow reader has not
taken. O(1) for each change; finding who holds most looks at the sources that hold
anything, and at the holders of one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

WINDOWS_SHARE = 0.70
VISITORS_SHARE = 0.80
LARGEST_SHARE = 0.90
NODES_SHARE = 0.95

Tell = Callable[[int, int, int, int], None]
"""(what the source held, what its largest did, what all hold now, what they may)"""


def _tell_nobody(of_source: int, size: int, held: int, limit: int) -> None:
    """Of a memory on its own."""


class Holder(Protocol):
    """Somebody for whom bytes wait."""

    @property
    def memory_source(self) -> str | None:
        """The source that it comes from; None: a trusted one, and it stands for itself alone."""

    def __hash__(self) -> int:
        """Itself, and nobody else."""

    def memory_short(self) -> None:
        """It holds most of its source: it ends, and so do its bytes."""


class _Source:
    """What the holders of one source hold."""

    __slots__ = ("held", "held_bytes")

    def __init__(self) -> None:
        self.held: dict[Holder, int] = {}
        self.held_bytes = 0


class Memory:
    """One for a service. ``windows`` is told when they may no longer grow, and when they may.

    ``source_share`` is how much of what all others leave one source may hold; ``tell`` is
    called when somebody has to go.
    """

    def __init__(
        self,
        limit_bytes: int,
        windows: Callable[[bool], None] | None = None,
        source_share: float = 1.0,
        tell: Tell = _tell_nobody,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._source_share = source_share
        self._windows = windows
        self._tell = tell
        self._sources: dict[Hashable, _Source] = {}
        self.held_bytes = 0
        """Of all holders together."""
        self.windows_grow = True
        """Windows of streams may grow."""

    def __len__(self) -> int:
        """How many hold anything."""
        return sum(len(source.held) for source in self._sources.values())

    def recount(self) -> int:
        """The sum, from the holders alone."""
        return sum(sum(source.held.values()) for source in self._sources.values())

    def hold(self, holder: Holder, n_bytes: int) -> None:
        """So many bytes wait for this one now; 0: none any more."""
        named = holder.memory_source
        grown = self._change(holder, holder if named is None else named, n_bytes)
        if grown and named is not None:
            self._keep_to_its_share(named)
        if self._share > LARGEST_SHARE:
            self._make_room()
        if self.windows_grow != (self._share < WINDOWS_SHARE):
            self._tell_windows()

    def _change(self, holder: Holder, name: Hashable, n_bytes: int) -> bool:
        """Whether it holds more than before."""
        source = self._sources.get(name)
        if source is None:
            if not n_bytes:
                return False
            source = self._sources[name] = _Source()
        before = source.held.pop(holder, 0)
        if n_bytes:
            source.held[holder] = n_bytes
        elif not source.held:
            del self._sources[name]
        source.held_bytes += n_bytes - before
        self.held_bytes += n_bytes - before
        return n_bytes > before

    def _most_of(self, source: _Source) -> float:
        """What a source may hold now."""
        return self._source_share * (self._limit_bytes - self.held_bytes + source.held_bytes)

    def _keep_to_its_share(self, name: str) -> None:
        while (source := self._sources.get(name)) and source.held_bytes > self._most_of(source):
            self._end_largest(name, source)

    def room_for_visitor_of(self, named: str | None) -> bool:
        """One more of this source may come: it does not hold half of its share already."""
        source = None if named is None else self._sources.get(named)
        return self.room_for_visitor and (
            source is None or source.held_bytes < self._most_of(source) / 2
        )

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
            name = max(self._sources, key=lambda one: self._sources[one].held_bytes)
            self._end_largest(name, self._sources[name])

    def _end_largest(self, name: Hashable, source: _Source) -> None:
        largest = max(source.held, key=source.held.__getitem__)
        n_bytes, of_source = source.held[largest], source.held_bytes
        self._change(largest, name, 0)
        self._tell(of_source, n_bytes, self.held_bytes, self._limit_bytes)
        largest.memory_short()

    def _tell_windows(self) -> None:
        self.windows_grow = not self.windows_grow
        if self._windows is not None:
            self._windows(self.windows_grow)
