"""Multiplexer: whatever a peer says and this side does, the bounds hold and the sums are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxyservice.errors import StreamError
from proxyservice.streams.multiplexer import STREAMS_LIMIT, Multiplexer, Stream
from proxyservice.streams.state import State
from proxyservice.streams.windows import CREDIT_BOUND_BYTES, CREDIT_LIMIT, DEFAULT_WINDOW_BYTES
from proxyservice.wire import proxyservice_pb2 as pb
from tests.fuzz.script import Script

PEER_WINDOWS = (1, 16 * 1024, DEFAULT_WINDOW_BYTES, CREDIT_LIMIT)
LIMITS = (1, 3, STREAMS_LIMIT)


class Side:
    """One multiplexer, all its streams, and what ought to be known of each."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.limit = script.choice(LIMITS)
        self.mux = Multiplexer(script.choice(PEER_WINDOWS), self.limit)
        self.streams: list[Stream] = []
        self.last_opened = 0

    # ----------------------------------------------------- what is drawn

    def stream(self) -> Stream | None:
        """One that is known here, gone or not."""
        return self.script.choice(self.streams) if self.streams else None

    def stream_id(self) -> int:
        """Mostly of a stream that is or was."""
        number = self.script.number()
        return self.script.number(8) if number == 0xFF else number

    def amount(self, usual: int) -> int:
        """A number of bytes: what is usual here or one beside it, or any."""
        kind = self.script.number()
        match kind % 4:
            case 0:
                return max(0, usual + (kind >> 2) % 3 - 1)
            case 1:
                return kind >> 2
            case 2:
                return (kind >> 2) << 12
        return self.script.number(4)

    def keep(self, stream: Stream | None) -> None:
        if stream is not None:
            self.streams.append(stream)

    # ----------------------------------------------------- what the peer says

    def peer_opens(self) -> None:
        stream_id = self.last_opened + 1
        if self.script.number() == 0xFF:
            stream_id = self.stream_id()
        credit, window = self.amount(DEFAULT_WINDOW_BYTES), self.amount(DEFAULT_WINDOW_BYTES)
        self.keep(self.mux.opened(stream_id, credit, window))
        self.last_opened = stream_id

    def data(self) -> None:
        stream_id = self.stream_id()
        stream = next((s for s in self.streams if s.id == stream_id), None)
        n_bytes = self.amount(stream.receive.unused_bytes if stream else 0)
        held = stream.receive.held_bytes if stream else 0
        told = self.mux.received(stream_id, n_bytes)
        assert told in (None, stream)
        if told is not None:
            grown = 0 if told.state is State.GONE else n_bytes
            assert told.receive.held_bytes == held + grown

    def credit(self) -> None:
        self.mux.granted(self.stream_id(), self.amount(DEFAULT_WINDOW_BYTES))

    def peer_ends(self) -> None:
        self.mux.ended(self.stream_id())

    def peer_resets(self) -> None:
        self.mux.was_reset(self.stream_id())

    # ----------------------------------------------------- what this side does

    def open(self) -> None:
        if self.last_opened == 0:  # who has streams opened by the peer opens none
            self.keep(self.mux.open())

    def send(self) -> None:
        stream = self.stream()
        if stream is not None and stream.state in (State.OPEN, State.END_RECEIVED):
            n_bytes = min(self.amount(stream.send.credit_bytes), stream.send.credit_bytes)
            self.mux.sent(stream, n_bytes)

    def consume(self) -> None:
        if (stream := self.stream()) is not None:
            held = stream.receive.held_bytes
            self.mux.consumed(stream, min(self.amount(held), held))

    def end(self) -> None:
        if (stream := self.stream()) is not None:
            self.mux.end(stream)

    def reset(self) -> None:
        if (stream := self.stream()) is not None:
            self.mux.reset(stream, pb.RESET_ABORTED)

    def tell(self) -> None:
        """Take what is due, all or one."""
        for _ in range(self.script.number() or 1 << 16):
            if (due := self.mux.next_due()) is None:
                return
            assert due.stream.id > 0
            assert 0 <= due.credit_bytes <= CREDIT_LIMIT
            assert not (due.reset and (due.opening or due.end or due.credit_bytes))

    def be_short_of_memory(self) -> None:
        self.mux.let_windows_grow(bool(self.script.number() & 1))

    # ----------------------------------------------------- what must hold

    def check_bounds(self) -> None:
        assert 0 <= self.mux.granted_bytes <= CREDIT_BOUND_BYTES
        assert len(self.mux) <= self.limit
        assert len(self.mux._due) <= 2 * self.limit + 1, "what is due to a peer has a bound"

    def check_sums(self) -> None:
        """The count of all is the sum of each, and each is a count."""
        total = 0
        for stream in self.streams:
            window = stream.receive
            parts = (window.unused_bytes, window.held_bytes, window.returnable_bytes)
            assert min(parts) >= 0
            assert sum(parts) == window.size_bytes
            assert 0 <= stream.send.credit_bytes <= CREDIT_LIMIT
            total += window.size_bytes
        assert self.mux.granted_bytes == total
        assert len(self.mux) == sum(s.state is not State.GONE for s in self.streams)

    def check_nothing_is_left(self) -> None:
        """When all streams are gone, and what came has left, no credit is out."""
        for stream in self.streams:
            self.mux.reset(stream, pb.RESET_ABORTED)
            self.mux.consumed(stream, stream.receive.held_bytes)
        assert self.mux.granted_bytes == 0
        assert len(self.mux) == 0
        while self.mux.next_due() is not None:
            pass
        assert not self.mux.owes


ACTS: tuple[Callable[[Side], None], ...] = (
    *(Side.open, Side.peer_opens, Side.data, Side.credit, Side.peer_ends, Side.peer_resets),
    *(Side.send, Side.consume, Side.end, Side.reset, Side.tell, Side.be_short_of_memory),
)


def check(data: bytes) -> None:
    script = Script(data)
    side = Side(script)
    while script:
        try:
            script.choice(ACTS)(side)
        except StreamError:
            break  # the main connection ends here, and with it all streams
        side.check_bounds()
    side.check_sums()
    side.check_nothing_is_left()


def seeds() -> Iterator[bytes]:
    tell = b"\12\0"
    data, eat = b"\2\1\4", b"\7\0\4"
    yield b"\2\2" + b"\0" * 3 + tell + (data + eat + tell) * 8 + b"\10\0" + tell + b"\4\1"
    yield b"\2\2" + b"\1\0\0\0" * 3 + (data + eat + tell) * 3 + b"\5\1" + b"\11\1" + tell
    yield b"\0\2" + b"\1\0\4\4" * 8
    yield b"\1\1" + b"\1\0\4\4" * 6 + tell + b"\6\0\4" + b"\3\1\4"
    yield b"\1\1" + b"\0" * 6 + tell + b"\13\1" + b"\2\1\10" + b"\7\0\4" + b"\4\1" + data
