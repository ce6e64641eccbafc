"""Memory to receive into, lent for as long as bytes are in it.

Whoever receives into a buffer of its own need not copy what is unfinished. Who
has nothing unfinished needs none, so a few go round however many receive.
"""

from __future__ import annotations

KEPT_BUFFERS = 4
"""Enough for the few sizes that are asked for; they are looked through one by one."""

KEPT_BYTES = 4 << 20
"""Larger ones are for single frames; keeping those would hold memory for nobody."""


class SpareBuffers:
    """Last in, first out: the buffer that is lent next is still in the caches."""

    def __init__(self) -> None:
        self._spare: list[bytearray] = []

    def take(self, at_least_bytes: int) -> bytearray:
        """Return a buffer of that size, up to twice as long, with whatever is in it."""
        for at in range(len(self._spare) - 1, -1, -1):
            if at_least_bytes <= len(self._spare[at]) <= 2 * at_least_bytes:
                return self._spare.pop(at)
        return bytearray(at_least_bytes)

    def give_back(self, buffer: bytearray) -> None:
        """Keep it for the next; nobody may look at it any more."""
        if len(buffer) <= KEPT_BYTES:
            self._spare.append(buffer)
            del self._spare[:-KEPT_BUFFERS]
