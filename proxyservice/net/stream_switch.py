"""Where the streams of one main connection meet their sockets: frames in, frames out.

`Multiplexer` says what may be said, `Outlet` when; here it is put into frames.
Payload is neither joined nor copied: it comes as a view and leaves as one, and
on the way out its header is written in front of it where it lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.python.failure import Failure

from proxyservice.errors import FrameError
from proxyservice.net import foreign
from proxyservice.net.eager import HEADROOM_BYTES, RECEIVE_BUFFER
from proxyservice.net.outlet import Outlet, Source
from proxyservice.streams.multiplexer import Due, Multiplexer, Stream
from proxyservice.streams.state import State
from proxyservice.text import printable
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, parse_payload
from proxyservice.wire.framing import StreamPiece
from proxyservice.wire.stream_frames import (
    stream_control_frame,
    stream_data_prefix,
    write_stream_data_prefix,
)

LARGEST_PAYLOAD_BYTES = 256 * 1024
"""Payload of one StreamData at most (docs/protocol.md, "StreamData")."""

SHARED_PAYLOAD_BYTES = 64 * 1024
"""While other streams wait: what each of them waits for at most, for each competitor."""

_LOCAL_END = "the local end of a stream"

DUE_AT_ONCE = 256
"""Control frames joined into one write: some 8 KiB, and openings up to 32 KiB."""


class LocalEnd(Source, Protocol):
    """Whoever has the socket, or the application, at this end of a stream."""

    def stream_received(self, view: memoryview) -> None:
        """Bytes of the peer, valid during the call; report them to `consumed` when they left."""

    def stream_ended(self) -> None:
        """The peer sends no more."""

    def stream_reset(self, code: int, reason: str) -> None:
        """The stream is gone; nothing may be sent any more."""

    def stream_ready(self) -> None:
        """There is credit again."""


class StreamSwitch:
    """All streams of one main connection; ``encode_opening`` makes the frame of a StreamOpen.

    What a local end raises is logged and resets its own stream, and no other.
    """

    def __init__(
        self,
        network_id: int,
        outlet: Outlet,
        multiplexer: Multiplexer,
        encode_opening: Callable[[Stream], bytes],
    ) -> None:
        self._network_id = network_id
        self._encode_opening = encode_opening
        self.outlet = outlet
        self.multiplexer = multiplexer

    # ------------------------------------------------------ from the peer

    def piece(self, piece: StreamPiece) -> None:
        """Hand a part of a StreamData's payload to its stream."""
        self._data(piece.stream_id, piece.payload)

    def _data(self, stream_id: int, payload: memoryview) -> None:
        stream = self.multiplexer.received(stream_id, len(payload))
        if stream is None:
            return
        if stream.state is State.GONE:
            self._tell_reset(stream, stream.reset_code, stream.reset_reason)
            self.tell()
            return
        try:
            stream.local.stream_received(payload)
        except BaseException as error:
            self._local_end_raised(stream, error)

    def control(self, message: pb.Message) -> None:
        """Act on a frame of opcode 41 to 44. Raises PeerError."""
        _CONTROL[message.opcode](self, message.request_nonce, message)

    def _stream_data(self, stream_id: int, message: pb.Message) -> None:
        if len(message.message) > LARGEST_PAYLOAD_BYTES:
            raise FrameError(f"a stream payload of {len(message.message)} bytes")
        self._data(stream_id, memoryview(message.message))

    def _stream_window(self, stream_id: int, message: pb.Message) -> None:
        window: Any = parse_payload(message)
        stream = self.multiplexer.granted(stream_id, window.credit)
        if stream is not None:
            self._call(stream, stream.local.stream_ready)

    def _stream_end(self, stream_id: int, message: pb.Message) -> None:
        stream = self.multiplexer.ended(stream_id)
        if stream is not None:
            self._call(stream, stream.local.stream_ended)

    def _stream_reset(self, stream_id: int, message: pb.Message) -> None:
        reset: Any = parse_payload(message)
        stream = self.multiplexer.was_reset(stream_id)
        if stream is not None:
            self._tell_reset(stream, reset.code, printable(reset.reason))

    def _call(self, stream: Stream, method: Callable[[], None]) -> None:
        def failed(failure: Failure) -> None:
            self.give_up(stream)

        foreign.call(_LOCAL_END, failed, method)

    def _local_end_raised(self, stream: Stream, error: BaseException) -> None:
        foreign.raised(_LOCAL_END, lambda _: self.give_up(stream), error)

    def _tell_reset(self, stream: Stream, code: int, reason: str) -> None:
        foreign.call(_LOCAL_END, None, stream.local.stream_reset, code, reason)

    def give_up(self, stream: Stream) -> None:
        """Whoever has its local end does not get along with it: the peer sees a reset."""
        if stream.state is not State.GONE:
            self.reset(stream, pb.RESET_ABORTED)
        if stream.local is not None:
            self._tell_reset(stream, pb.RESET_ABORTED, "its local end failed")

    # ------------------------------------------------- from the local ends

    def room(self, stream: Stream) -> int:
        """How many bytes of this stream may be sent now."""
        outlet = self.outlet
        if not outlet.writable:
            return 0
        most = SHARED_PAYLOAD_BYTES if outlet.contended else LARGEST_PAYLOAD_BYTES
        return min(stream.send.credit_bytes, most)

    def send_lent(self, source: Source, stream: Stream, n_bytes: int) -> None:
        """Send what was just read into `RECEIVE_BUFFER`, at most `room`."""
        start = write_stream_data_prefix(
            RECEIVE_BUFFER, HEADROOM_BYTES, self._network_id, stream.id, n_bytes
        )
        self.multiplexer.sent(stream, n_bytes)
        self.outlet.write(RECEIVE_BUFFER[start : HEADROOM_BYTES + n_bytes])
        self.outlet.charge(source, n_bytes)

    def send(self, source: Source, stream: Stream, data: bytes | memoryview) -> None:
        """Send bytes that lie elsewhere, at most `room`."""
        self.multiplexer.sent(stream, len(data))
        prefix = stream_data_prefix(self._network_id, stream.id, len(data))
        self.outlet.write(b"".join((prefix, data)))
        self.outlet.charge(source, len(data))

    def consumed(self, stream: Stream, n_bytes: int) -> None:
        """Received bytes have left for the socket, or were thrown away."""
        self.multiplexer.consumed(stream, n_bytes)
        if self.multiplexer.owes:
            self.tell()

    def end(self, stream: Stream) -> None:
        """Nothing more is sent from here."""
        self.multiplexer.end(stream)
        self.tell()

    def reset(self, stream: Stream, code: int, reason: str = "") -> None:
        """Give the stream up."""
        self.multiplexer.reset(stream, code, reason)
        self.tell()

    # ------------------------------------------------------- to the peer

    def tell(self) -> None:
        """Say what is due, as long as the connection takes it."""
        while self.outlet.writable and self.multiplexer.owes:
            frames: list[bytes] = []
            while len(frames) < DUE_AT_ONCE and (due := self.multiplexer.next_due()) is not None:
                frames += self._frames(due)
            self.outlet.write(b"".join(frames))

    def _frames(self, due: Due) -> list[bytes]:
        stream, frames = due.stream, []
        if due.opening:
            frames.append(self._encode_opening(stream))
        if due.credit_bytes:
            credit = pb.StreamWindow(credit=due.credit_bytes).SerializeToString()
            frames.append(self._control_frame(Opcode.STREAM_WINDOW, stream, credit))
        if due.end:
            frames.append(self._control_frame(Opcode.STREAM_END, stream))
        if due.reset:
            why = pb.StreamReset(
                code=cast("pb.ResetCode", stream.reset_code), reason=stream.reset_reason
            )
            frames.append(self._control_frame(Opcode.STREAM_RESET, stream, why.SerializeToString()))
        return frames

    def _control_frame(self, opcode: int, stream: Stream, payload: bytes = b"") -> bytes:
        return stream_control_frame(self._network_id, opcode, stream.id, payload)

    def lost(self, reason: str) -> None:
        """The main connection is gone: so is every stream."""
        for stream in self.multiplexer:
            self.multiplexer.reset(stream, pb.RESET_ABORTED)
            self._tell_reset(stream, pb.RESET_ABORTED, reason)


_CONTROL: dict[int, Callable[[StreamSwitch, int, pb.Message], None]] = {
    Opcode.STREAM_DATA: StreamSwitch._stream_data,
    Opcode.STREAM_WINDOW: StreamSwitch._stream_window,
    Opcode.STREAM_END: StreamSwitch._stream_end,
    Opcode.STREAM_RESET: StreamSwitch._stream_reset,
}

STREAM_OPCODES = frozenset(_CONTROL)
"""Frames that need neither sender nor netID once the connection was welcomed."""
