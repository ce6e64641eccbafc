"""Two ends of a main connection, in frames: what one sends arrives whole, in order, and ends so.

Once a frame was forged nothing need arrive any more, but still nothing may
escape but declared errors, and a local end is told before it says too much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from proxyservice.errors import PeerError
from proxyservice.net.outlet import Outlet
from proxyservice.net.stream_switch import LARGEST_PAYLOAD_BYTES, STREAM_OPCODES, StreamSwitch
from proxyservice.streams.multiplexer import Multiplexer, Stream
from proxyservice.streams.state import State
from proxyservice.streams.windows import CREDIT_BOUND_BYTES, DEFAULT_WINDOW_BYTES
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, decode_message, encode_message, parse_payload
from proxyservice.wire.framing import (
    CONTROL_FRAME_BYTES,
    DEFAULT_NETWORK_ID,
    FrameDecoder,
    StreamPiece,
)
from proxyservice.wire.stream_frames import stream_control_frame
from tests.fuzz.script import Script

NET = DEFAULT_NETWORK_ID
OPCODES = (
    *(Opcode.STREAM_DATA, Opcode.STREAM_WINDOW, Opcode.STREAM_END),
    *(Opcode.STREAM_RESET, Opcode.STREAM_OPEN),
)
SENDER = pb.ID(net_key=b"server", address="tcp://h:1")
PATTERN = bytes(range(251))
TOTAL_BYTES = 2 << 20
"""Sent for one input at most."""


class Line:
    """What an outlet is to a switch; the bytes wait here until they are delivered."""

    def __init__(self) -> None:
        self.writable = True
        self.contended = False
        self.waiting = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.waiting += data

    def charge(self, source: Any, n_bytes: int) -> None:
        pass


class Local:
    """The socket's side of one stream; it knows of the stream only what it is told.

    ``wrong`` is what it should not have been told: an exception here would go no further
    than its own stream (`net/foreign.py`).
    """

    def __init__(self, switch: StreamSwitch, stream: Stream) -> None:
        self.switch, self.stream = switch, stream
        self.said, self.heard = bytearray(), bytearray()
        self.held = 0
        self.ended = self.reset = self.has_ended = False
        self.wrong: list[str] = []
        stream.local = self

    def is_told(self, what: str, *, after_end: bool) -> None:
        if self.reset or (self.ended and not after_end):
            self.wrong.append(what)

    def send_turn(self) -> None:
        pass

    def stream_ready(self) -> None:
        self.is_told("ready", after_end=True)

    def stream_received(self, view: memoryview) -> None:
        self.is_told("received", after_end=False)
        self.heard += view
        self.held += len(view)

    def stream_ended(self) -> None:
        self.is_told("ended", after_end=False)
        self.ended = True

    def stream_reset(self, code: int, reason: str) -> None:
        self.is_told("reset", after_end=True)
        self.reset = True


class End:
    """One side of the main connection."""

    def __init__(self, *, is_node: bool) -> None:
        self.is_node = is_node
        self.line = Line()
        self.streams: list[Local] = []
        mux = Multiplexer(DEFAULT_WINDOW_BYTES)
        self.switch = StreamSwitch(NET, cast("Outlet", self.line), mux, self.opening)
        self.decoder = FrameDecoder(NET, CONTROL_FRAME_BYTES, LARGEST_PAYLOAD_BYTES)

    def opening(self, stream: Stream) -> bytes:
        said = pb.StreamOpen(
            initial_window=stream.receive.size_bytes, server_window=stream.taken_bytes
        )
        return encode_message(NET, Opcode.STREAM_OPEN, said, sender=SENDER, request_nonce=stream.id)

    def hear(self, data: bytes) -> None:
        """What a main connection does with what comes."""
        for item in self.decoder.feed(data):
            if isinstance(item, StreamPiece):
                self.switch.piece(item)
                continue
            message = decode_message(item)
            if message.opcode in STREAM_OPCODES:
                self.switch.control(message)
            elif message.opcode == Opcode.STREAM_OPEN and self.is_node:
                self.hear_opening(message)

    def hear_opening(self, message: pb.Message) -> None:
        said = cast("pb.StreamOpen", parse_payload(message))
        mux = self.switch.multiplexer
        stream = mux.opened(message.request_nonce, said.initial_window, said.server_window)
        if stream is not None:
            self.streams.append(Local(self.switch, stream))
        self.switch.tell()


class Joined:
    """Both ends, and what the script has happen to them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.server, self.node = self.ends = End(is_node=False), End(is_node=True)
        self.left_bytes = TOTAL_BYTES
        self.forged = False

    def end(self) -> End:
        return self.script.choice(self.ends)

    def local(self) -> Local | None:
        streams = self.end().streams
        return self.script.choice(streams) if streams else None

    def visitor_comes(self) -> None:
        stream = self.server.switch.multiplexer.open()
        if stream is not None:
            self.server.streams.append(Local(self.server.switch, stream))
            self.server.switch.tell()

    def send(self) -> None:
        local, wanted = self.local(), self.script.number() << self.script.number() % 12
        if local is None or local.has_ended or local.reset:
            return
        n_bytes = min(local.switch.room(local.stream), wanted, self.left_bytes)
        if n_bytes:
            assert local.stream.id, "it was announced before"
            start = self.left_bytes % 251
            data = (PATTERN * (n_bytes // 251 + 2))[start : start + n_bytes]
            local.switch.send(local, local.stream, data)
            local.said += data
            self.left_bytes -= n_bytes

    def consume(self) -> None:
        local, most = self.local(), self.script.number() << 12
        if local is not None:
            eat(local, min(most, local.held))

    def finish(self) -> None:
        if (local := self.local()) is not None and not local.has_ended:
            local.has_ended = True
            local.switch.end(local.stream)

    def cut(self) -> None:
        if (local := self.local()) is not None:
            local.reset = True
            local.switch.reset(local.stream, pb.RESET_ABORTED)

    def deliver(self) -> None:
        self.carry(self.end(), self.script.number() << self.script.number() % 12)

    def carry(self, end: End, n_bytes: int) -> None:
        other = self.node if end is self.server else self.server
        data = bytes(end.line.waiting[:n_bytes])
        del end.line.waiting[:n_bytes]
        other.hear(data)

    def forge(self) -> None:
        """A frame that this end never meant to send."""
        end, opcode, stream_id = self.end(), self.script.choice(OPCODES), self.script.number() % 8
        payload = self.script.take(self.script.number() % 16)
        frame = stream_control_frame(NET, opcode, stream_id, payload)
        end.line.waiting += frame
        self.forged = True

    def fill_or_drain(self) -> None:
        end, state = self.end(), self.script.number()
        end.line.writable, end.line.contended = bool(state & 1), bool(state & 2)
        end.switch.tell()

    def be_short_of_memory(self) -> None:
        self.end().switch.multiplexer.let_windows_grow(bool(self.script.number() & 1))

    def check_bounds(self) -> None:
        for end in self.ends:
            assert 0 <= end.switch.multiplexer.granted_bytes <= CREDIT_BOUND_BYTES
            assert sum(local.held for local in end.streams) <= CREDIT_BOUND_BYTES
        self.check_what_is_told()

    def check_what_is_told(self) -> None:
        assert not [local.wrong for end in self.ends for local in end.streams if local.wrong]

    def settle(self) -> None:
        """Nothing stands in the way any more: all that was said arrives and is consumed."""
        for end in self.ends:
            end.line.writable = True
            end.switch.tell()
        waiting = True
        while waiting:
            for end in self.ends:
                for local in end.streams:
                    eat(local, local.held)
                self.carry(end, len(end.line.waiting))
            waiting = any(end.line.waiting or any(s.held for s in end.streams) for end in self.ends)

    def lose(self) -> None:
        """The main connection is gone, and with it every stream."""
        for end in self.ends:
            end.switch.lost("lost")
            assert len(end.switch.multiplexer) == 0
            for local in end.streams:
                assert local.reset or (local.ended and local.has_ended)
                eat(local, local.held)
            assert end.switch.multiplexer.granted_bytes == 0

    def check_nothing_is_lost(self) -> None:
        here, there = self.server.streams, self.node.streams
        announced = [local for local in here if local.stream.id]
        announced.sort(key=lambda local: local.stream.id)
        assert [local.stream.id for local in announced] == [local.stream.id for local in there]
        for one, other in zip(announced, there, strict=True):
            assert (one.stream.state is State.GONE) == (other.stream.state is State.GONE)
            for source, target in ((one, other), (other, one)):
                assert source.said.startswith(target.heard)
                if not one.reset and not other.reset:
                    assert target.heard == source.said
                    assert target.ended == source.has_ended
                    assert source.has_ended or source.stream.send.credit_bytes > 0
        live = sum(local.stream.state is not State.GONE for local in announced)
        assert len(self.server.switch.multiplexer) == len(self.node.switch.multiplexer) == live


def eat(local: Local, n_bytes: int) -> None:
    """Bytes leave for the socket, or are thrown away where the stream is gone."""
    local.held -= n_bytes
    local.switch.consumed(local.stream, n_bytes)


ACTS: tuple[Callable[[Joined], None], ...] = (
    *(Joined.visitor_comes, Joined.send, Joined.consume, Joined.finish, Joined.cut),
    *(Joined.deliver, Joined.fill_or_drain, Joined.be_short_of_memory, Joined.forge),
)


def check(data: bytes) -> None:
    script = Script(data)
    joined = Joined(script)
    try:
        while script:
            script.choice(ACTS)(joined)
            joined.check_bounds()
        joined.settle()
    except PeerError:
        assert joined.forged
    if joined.forged:
        joined.lose()
    else:
        joined.check_nothing_is_lost()
    joined.check_what_is_told()


def seeds() -> Iterator[bytes]:
    come, deliver, answer = b"\0", b"\5\0\xff\13", b"\5\1\xff\13"
    send, reply = b"\1\0\0\xff\13", b"\1\1\0\xff\13"
    eat_here, eat_there = b"\2\0\0\xff", b"\2\1\0\xff"
    yield come + deliver + send + deliver + eat_there + answer + b"\3\0\0" + deliver + b"\3\1\0"
    yield come * 3 + deliver + (reply + answer + eat_here + deliver) * 4
    yield come + deliver + reply + b"\4\0\0" + send + answer + deliver
    yield b"\6\0\0" + come * 2 + b"\4\0\1" + b"\6\0\3" + b"\7\0\0" + deliver + b"\5\1\3\0" + reply
    forged_end, forged_data = b"\x08\1\2\1\0", b"\x08\1\0\1\1x"
    yield come + deliver + forged_end + forged_data + answer + send + deliver
    yield come + deliver + b"\x08\1\1\1\2\x08\1" + answer + b"\x08\0\4\2\0" + deliver
