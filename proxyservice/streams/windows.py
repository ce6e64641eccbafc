"""Credit: how many bytes one side of a stream may send before the other has taken them.

Arithmetic of one direction of one stream, and of all credit that one main
connection has out. Knows neither ids nor states (docs/protocol.md, "Windows").
"""

from __future__ import annotations

from typing import Final

from proxyservice.errors import StreamError

KIB: Final = 1024
MIB: Final = 1024 * KIB

DEFAULT_WINDOW_BYTES: Final = 256 * KIB
"""Credit of a new stream: two full reads, and 20 Mbit/s at 100 ms from the first byte on."""

SMALL_WINDOW_BYTES: Final = 16 * KIB
"""Credit of a new stream while `SCARCE_BYTES` are out."""

LARGEST_WINDOW_BYTES: Final = 16 * MIB
"""A stream that keeps up grows to this: 2.5 Gbit/s at 50 ms."""

GROWTH_FACTOR: Final = 2
"""A window that is used triples in each round trip: from the default to the largest in four."""

SCARCE_BYTES: Final = 16 * MIB
"""Where all windows together are this large they grow no more, and new ones are small."""

CREDIT_BOUND_BYTES: Final = 32 * MIB
"""All windows of one side of a main connection together: never more."""

CREDIT_LIMIT: Final = (1 << 31) - 1
"""Credit of one stream fits a signed 32-bit number; beyond it somebody is confused."""


class CreditBudget:
    """The windows that one side of a main connection has open, all streams together."""

    __slots__ = ("busy", "busy_bytes", "granted_bytes", "may_grow")

    def __init__(self) -> None:
        self.granted_bytes = 0
        """Sum of the windows' sizes: the most that can come to lie in memory here."""
        self.busy = 0
        """Windows that were used up at least once and are still open."""
        self.busy_bytes = 0
        """Their share of `granted_bytes`."""
        self.may_grow = True
        """False while memory is short elsewhere: windows stay as they are, and new ones are small.
        """

    def initial_bytes(self, wanted_bytes: int = DEFAULT_WINDOW_BYTES) -> int:
        """Return what a new stream may have; 0 when there is nothing left to give."""
        for size_bytes, bound_bytes in (
            (wanted_bytes, SCARCE_BYTES if self.may_grow else 0),
            (min(wanted_bytes, SMALL_WINDOW_BYTES), CREDIT_BOUND_BYTES),
        ):
            if self.granted_bytes + size_bytes <= bound_bytes:
                return size_bytes
        return 0

    def has_room(self, n_bytes: int) -> bool:
        """Whether so much more stays within the bound."""
        return self.granted_bytes + n_bytes <= CREDIT_BOUND_BYTES

    def share_bytes(self) -> int:
        """Return the size that a busy window may have: of what the others leave, an equal part.

        Who came first would otherwise have grown until nothing was left, and
        be faster than everybody else for ever.
        """
        left_bytes = SCARCE_BYTES - (self.granted_bytes - self.busy_bytes)
        return min(LARGEST_WINDOW_BYTES, left_bytes // max(1, self.busy))

    def resize(self, n_bytes: int) -> None:
        """A busy window has grown by so many bytes, or shrunk."""
        self.granted_bytes += n_bytes
        self.busy_bytes += n_bytes


class SendWindow:
    """What this side may send."""

    __slots__ = ("credit_bytes",)

    def __init__(self, initial_bytes: int) -> None:
        self.credit_bytes = initial_bytes

    def granted(self, n_bytes: int) -> None:
        """The peer grants more. Raises StreamError for nothing, and for too much."""
        if not 0 < n_bytes <= CREDIT_LIMIT - self.credit_bytes:
            raise StreamError(f"credit of {n_bytes} bytes on top of {self.credit_bytes}")
        self.credit_bytes += n_bytes

    def sent(self, n_bytes: int) -> None:
        """So many bytes were sent."""
        assert 0 <= n_bytes <= self.credit_bytes, "sent more than was granted"
        self.credit_bytes -= n_bytes


class ReceiveWindow:
    """What the peer may send: unused, held and returnable bytes are the window's size."""

    __slots__ = ("_budget", "_busy", "held_bytes", "returnable_bytes", "size_bytes", "unused_bytes")

    def __init__(self, initial_bytes: int, budget: CreditBudget) -> None:
        self._budget = budget
        self._busy = False
        self.size_bytes = initial_bytes
        self.unused_bytes = initial_bytes
        """Granted, and not received yet."""
        self.held_bytes = 0
        """Received, and not consumed yet: these are in memory here."""
        self.returnable_bytes = 0
        """Consumed, and not granted anew yet."""
        budget.granted_bytes += initial_bytes

    def received(self, n_bytes: int) -> None:
        """Bytes came. Raises StreamError for more than was granted."""
        if n_bytes > self.unused_bytes:
            raise StreamError(f"{n_bytes} bytes of data with credit for {self.unused_bytes}")
        self.unused_bytes -= n_bytes
        self.held_bytes += n_bytes

    def consumed(self, n_bytes: int) -> bool:
        """Bytes have left for the other transport; true when credit is due to the peer."""
        assert 0 <= n_bytes <= self.held_bytes, "consumed more than came"
        self.held_bytes -= n_bytes
        self.returnable_bytes += n_bytes
        return 2 * self.returnable_bytes >= self.size_bytes

    def take_credit(self) -> int:
        """Return the credit to grant now: what was consumed, and twice as much to grow.

        A window grows while its consumer keeps up (little is held), so that a
        long fat path fills; a consumer that is behind gets no more memory. It
        shrinks, by keeping some back, when its share has become smaller.
        """
        credit_bytes = self.returnable_bytes
        self.returnable_bytes = 0
        self._be_busy()
        change_bytes = self._budget.share_bytes() - self.size_bytes
        if change_bytes < 0:
            floor_bytes = min(0, DEFAULT_WINDOW_BYTES - self.size_bytes)
            change_bytes = max(change_bytes, floor_bytes, -(credit_bytes // 2))
        elif self._budget.may_grow and 4 * self.held_bytes <= self.size_bytes:
            room_bytes = max(0, SCARCE_BYTES - self._budget.granted_bytes)
            change_bytes = min(change_bytes, GROWTH_FACTOR * credit_bytes, room_bytes)
        else:
            change_bytes = 0
        self._budget.resize(change_bytes)
        self.size_bytes += change_bytes
        self.unused_bytes += credit_bytes + change_bytes
        return credit_bytes + change_bytes

    def _be_busy(self) -> None:
        if not self._busy:
            self._busy = True
            self._budget.busy += 1
            self._budget.busy_bytes += self.size_bytes

    def close(self) -> None:
        """The stream is gone; what is held here still has to leave."""
        if self._busy:
            self._budget.busy -= 1
            self._budget.busy_bytes -= self.size_bytes
        self._budget.granted_bytes -= self.size_bytes - self.held_bytes
        self.size_bytes = self.held_bytes
        self.unused_bytes = self.returnable_bytes = 0

    def left(self, n_bytes: int) -> None:
        """Bytes of a closed window have left, or were thrown away."""
        self.held_bytes -= n_bytes
        self.size_bytes -= n_bytes
        self._budget.granted_bytes -= n_bytes
