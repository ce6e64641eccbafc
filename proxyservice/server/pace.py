"""So many bytes a second for one lease: its visitors wait when they are used up.

Both directions together, all visitors together. What visitors send is not
read; what is sent to them waits at the node, for its credit comes back later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxyservice.net.deadlines import Deadlines
from proxyservice.net.outlet import Source
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.server.relay_visitor import RelayVisitor
from proxyservice.server.stream_visitor import StreamVisitor
from proxyservice.streams.multiplexer import Stream
from proxyservice.streams.state import State

LOOK_SECONDS = 0.25
"""How often those that wait are looked after; at least the service's tick."""

UNHURRIED = 1 << 50
"""Bytes a second that nobody reaches: no limit, for now."""


class Pace:
    """A bucket of bytes that holds a second's worth; a read that was larger is made good later."""

    def __init__(
        self, bytes_per_second: int, deadlines: Deadlines, now: Callable[[], float]
    ) -> None:
        self.bytes_per_second = bytes_per_second
        self._deadlines = deadlines
        self._now = now
        self._level = float(bytes_per_second)
        self._filled_at = now()
        self._waiting: dict[Source, None] = {}

    def room(self) -> int:
        """How many bytes may be moved now."""
        now = self._now()
        self._level += (now - self._filled_at) * self.bytes_per_second
        self._level = min(self._level, float(self.bytes_per_second))
        self._filled_at = now
        return max(0, int(self._level))

    def spend(self, n_bytes: int) -> None:
        """They were moved."""
        self._level -= n_bytes

    def wait(self, source: Source) -> None:
        """It gets a turn when there is room again."""
        if not self._waiting:
            self._deadlines.set(self, self._now() + LOOK_SECONDS)
        self._waiting[source] = None

    def forget(self, source: Source) -> None:
        """It is gone."""
        self._waiting.pop(source, None)

    def deadline_passed(self, now: float) -> float | None:
        """A turn for each that waits, in the order of their coming, while there is room."""
        waiting = list(self._waiting)
        for source in waiting:
            if not self.room():
                break
            if self._waiting.pop(source, self) is None:
                source.send_turn()
        return now + LOOK_SECONDS if self._waiting else None


class _PacedSwitch:
    """The switch as one visitor's socket sees it."""

    def __init__(self, switch: StreamSwitch, pace: Pace) -> None:
        self._switch = switch
        self._pace = pace
        self._stream: Stream | None = None
        self._unpaid_bytes = 0  # consumed, and their credit not given back yet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._switch, name)

    def room(self, stream: Stream) -> int:
        return min(self._switch.room(stream), self._pace.room())

    def unpaced_room(self, stream: Stream) -> int:
        """As far as credit and the main connection go."""
        return self._switch.room(stream)

    def send_lent(self, source: Source, stream: Stream, n_bytes: int) -> None:
        self._pace.spend(n_bytes)
        self._switch.send_lent(source, stream, n_bytes)

    def send(self, source: Source, stream: Stream, data: bytes | memoryview) -> None:
        self._pace.spend(len(data))
        self._switch.send(source, stream, data)

    def consumed(self, stream: Stream, n_bytes: int) -> None:
        self._stream = stream
        self._unpaid_bytes += n_bytes
        self.send_turn()

    def settle(self) -> None:
        """The visitor is gone: what was not given back goes now."""
        if self._unpaid_bytes:
            self.send_turn()

    def send_turn(self) -> None:
        """Give credit back, as much as the pace allows."""
        assert self._stream is not None, "nothing was consumed"
        n_bytes = self._unpaid_bytes
        if self._stream.state is not State.GONE:
            n_bytes = min(n_bytes, self._pace.room())
        self._unpaid_bytes -= n_bytes
        self._pace.spend(n_bytes)
        if self._unpaid_bytes:
            self._pace.wait(self)
        if n_bytes:
            self._switch.consumed(self._stream, n_bytes)


class PacedStreamVisitor(StreamVisitor):
    """A visitor of a lease in stream mode that has a pace."""

    def __init__(self, pace: Pace, switch: StreamSwitch, *args: Any, **options: Any) -> None:
        self._paced = _PacedSwitch(switch, pace)
        seen: Any = self._paced  # as good as a switch
        super().__init__(seen, *args, **options)
        self._pace = pace

    def _wait(self) -> None:
        # What is lacking is not asked of the pace again: it may have a byte by now, and a
        # visitor that waited for the connection then would wait for ever.
        if not self._paced.unpaced_room(self._stream):
            super()._wait()
            return
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        self._pace.wait(self)

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]  # Twisted's default value
        """It waits no more."""
        self._pace.forget(self)
        super().connectionLost(reason)
        self._paced.settle()


class PacedRelayVisitor(RelayVisitor):
    """A visitor of a lease in message mode that has a pace."""

    def __init__(self, pace: Pace, *args: Any) -> None:
        super().__init__(*args)
        self._pace = pace

    def receiveRoom(self) -> int | memoryview:
        """No more than the pace allows."""
        n_bytes = self._pace.room()
        if not n_bytes:
            self._wait_for_pace()
            return 0
        room = super().receiveRoom()
        return room if isinstance(room, int) else room[:n_bytes]

    def _relay(self, runs: Any, received_bytes: int) -> None:
        self._pace.spend(received_bytes)
        super()._relay(runs, received_bytes)
        if not self._over and not self._pace.room():
            self._wait_for_pace()

    def _wait_for_pace(self) -> None:
        if not self._waiting:
            self._waiting = True
            self.transport.pauseProducing()
        self._pace.wait(self)

    def _forgotten(self) -> None:
        self._pace.forget(self)
        super()._forgotten()
