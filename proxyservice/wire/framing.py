"""From received bytes to frames, whatever the chunks they come in.

Responsible for the header, the limits and an unfinished tail; a body is opaque
but for the canonical beginning of StreamData, whose payload is passed on as it
arrives. Knows neither compression nor messages (docs/protocol.md, "Frame").
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NamedTuple

from proxyservice.errors import FrameError
from proxyservice.wire.header import (
    COMPRESSED,
    CONTROL_FRAME_BYTES,
    DEFAULT_MAX_FRAME_BYTES,
    DEFAULT_NETWORK_ID,
    HEADER,
    HEADER_BYTES,
)
from proxyservice.wire.stream_frames import (
    MORE,
    PREFIX_ROOM,
    STREAM_DATA_START,
    StreamDataPrefix,
    is_stream_data,
    parse_stream_data_prefix,
)

__all__ = [
    "COMPRESSED",
    "CONTROL_FRAME_BYTES",
    "DEFAULT_MAX_FRAME_BYTES",
    "DEFAULT_NETWORK_ID",
    "HEADER",
    "HEADER_BYTES",
    "Frame",
    "FrameDecoder",
    "StreamPiece",
    "encode_frame",
]


class Frame(NamedTuple):
    """One whole frame. The views are valid until the next `FrameDecoder.feed`."""

    flag: int
    algorithm: int
    body: memoryview
    raw: memoryview
    """Header and body, as received."""


class StreamPiece(NamedTuple):
    """Part of one StreamData payload, in order; the view is valid until the next feed."""

    stream_id: int
    payload: memoryview
    last: bool
    """True when this piece completes its frame."""


def encode_frame(network_id: int, body: bytes, *, flag: int = 0, algorithm: int = 0) -> bytes:
    """Put the header in front of a body that is already compressed when ``flag`` says so."""
    return HEADER.pack(network_id, flag, algorithm, len(body)) + body


class FrameDecoder:
    """Cuts one direction of one connection into frames.

    ``max_body_bytes`` bounds every body but StreamData's. With
    ``stream_payload_bytes`` above 0, StreamData in canonical form arrives as
    `StreamPiece` without being buffered, its payload bounded by that number;
    StreamData in another form arrives as a `Frame`, buffered within the same
    bound. Memory grows with the bytes that came, never with a header's claim.
    """

    def __init__(self, network_id: int, max_body_bytes: int, stream_payload_bytes: int = 0) -> None:
        self._network_id = network_id
        self._max_body_bytes = max_body_bytes
        self._tail = bytearray()  # a frame that is not all here, from its header on
        self._stream_id = 0
        self._payload_left_bytes = 0  # of a StreamData that has begun
        self._failure = ""
        self._later = bytearray()  # put off: frames that nobody has looked at yet
        self._putting_off = self._again = False
        self._walking = False
        self._abandoned = False
        self.allow_streams(stream_payload_bytes)

    @property
    def buffered_bytes(self) -> int:
        """Bytes held: of an unfinished frame, and of what was put off."""
        return len(self._tail) + len(self._later)

    def put_off(self, *, again: bool = False) -> None:
        """While `feed` is walked: yield nothing more of it, keep a copy of the rest.

        With ``again`` the frame that was yielded last is part of the rest.
        """
        self._putting_off, self._again = True, again

    def keep(self, data: bytes | bytearray | memoryview) -> None:
        """Put bytes off that come while earlier ones are."""
        if not self._abandoned and not self._failure:
            self._later += data

    def close(self) -> None:
        """No more will come: what is unfinished is dropped, and what comes all the same."""
        self._abandoned = True
        self._tail, self._later = bytearray(), bytearray()

    def allow_streams(self, max_payload_bytes: int) -> None:
        """Accept StreamData from the next frame on, with payloads up to that size."""
        self._max_payload_bytes = max_payload_bytes
        stream_body_bytes = max_payload_bytes + PREFIX_ROOM if max_payload_bytes else 0
        self._max_any_bytes = max(self._max_body_bytes, stream_body_bytes)

    def feed(
        self, data: bytes | bytearray | memoryview
    ) -> Generator[Frame | StreamPiece, None, None]:
        """Yield what ``data`` completes, in order; walk it to the end before feeding more.

        Raises FrameError for a wrong network id, a length of 0 or beyond the
        limit, before a byte of that body is kept; from then on for any input.
        A consumer that stops early closes the generator, and has given the
        connection up: what comes later is dropped without a word.
        """
        if self._abandoned:
            return
        if self._failure or self._walking:
            raise FrameError(self._failure or "bytes fed while earlier ones are being read")
        self._walking = True
        self._putting_off = self._again = False
        if self._later:
            self._later += data
            data, self._later = self._later, bytearray()
        try:
            yield from self._walk(memoryview(data))
        except GeneratorExit:
            self.close()
            raise
        except FrameError as error:
            self._failure = str(error)
            self._tail, self._later = bytearray(), bytearray()
            raise
        finally:
            self._walking = False

    def _walk(self, view: memoryview) -> Iterator[Frame | StreamPiece]:
        pos = 0
        if self._tail:
            pos = self._grow_tail(view)
            if pos < 0:
                return
            whole, self._tail = self._tail, bytearray()
            yield from self._cut(memoryview(whole))
        if self._payload_left_bytes and pos < len(view) and not self._putting_off:
            payload = view[pos : pos + self._payload_left_bytes]
            pos += len(payload)
            self._payload_left_bytes -= len(payload)
            yield StreamPiece(self._stream_id, payload, not self._payload_left_bytes)
        if self._putting_off:
            self._later += view[pos:]
        else:
            yield from self._cut(view[pos:] if pos else view)

    def _grow_tail(self, view: memoryview) -> int:
        """Complete the unfinished frame; return how much it took, -1 when all was too little."""
        pos = 0
        while (needed_bytes := self._needed_bytes()) > len(self._tail):
            if pos == len(view):
                return -1
            more = view[pos : pos + needed_bytes - len(self._tail)]
            self._tail += more
            pos += len(more)
        return pos

    def _needed_bytes(self) -> int:
        """How long the tail must be before something can be said or done about it."""
        tail = self._tail
        if len(tail) < HEADER_BYTES:
            return HEADER_BYTES
        flag, _, body_bytes = self._header(tail, 0)
        prefix = self._stream_prefix(tail, HEADER_BYTES, flag, body_bytes)
        if prefix is None:
            return HEADER_BYTES + body_bytes
        return len(tail) + 1 if prefix is MORE else HEADER_BYTES + prefix.payload_offset

    def _cut(self, view: memoryview) -> Iterator[Frame | StreamPiece]:
        """Yield the frames of one buffer; keep what is unfinished at its end."""
        pos, end = 0, len(view)
        while end - pos >= HEADER_BYTES:
            flag, algorithm, body_bytes = self._header(view, pos)
            body = pos + HEADER_BYTES
            stop = body + body_bytes
            prefix = self._stream_prefix(view, body, flag, body_bytes)
            if prefix is None and stop <= end:
                yield self._frame(flag, algorithm, view[pos:stop])
                if self._again:
                    stop = pos
            elif prefix is None or prefix is MORE:
                break
            else:
                payload = view[body + prefix.payload_offset : stop]
                self._stream_id = prefix.stream_id
                self._payload_left_bytes = prefix.payload_bytes - len(payload)
                if payload or not self._payload_left_bytes:
                    yield StreamPiece(prefix.stream_id, payload, not self._payload_left_bytes)
            pos = stop
            if self._putting_off:
                self._later += view[pos:]
                return
        if pos < end:
            self._tail += view[pos:]

    def _header(self, view: memoryview | bytearray, pos: int) -> tuple[int, int, int]:
        network_id, flag, algorithm, body_bytes = HEADER.unpack_from(view, pos)
        if network_id != self._network_id:
            told = f"a header is of network id {network_id}, not of {self._network_id}"
            raise FrameError(told)
        if not 0 < body_bytes <= self._max_any_bytes:
            raise FrameError(f"a body of {body_bytes} bytes")
        return flag, algorithm, body_bytes

    def _stream_prefix(
        self, view: memoryview | bytearray, body: int, flag: int, body_bytes: int
    ) -> StreamDataPrefix | None:
        """Read a canonical StreamData prefix; None for any other frame, MORE while undecided."""
        if not self._max_payload_bytes or flag == COMPRESSED:
            return None
        if body < len(view) and view[body] != STREAM_DATA_START:
            return None
        head = bytes(view[body : body + min(body_bytes, PREFIX_ROOM)])
        prefix = parse_stream_data_prefix(head)
        if prefix is MORE:
            return None if len(head) == body_bytes else MORE
        if prefix is None or prefix.payload_offset + prefix.payload_bytes != body_bytes:
            return None
        if prefix.payload_bytes > self._max_payload_bytes:
            raise FrameError(f"a stream payload of {prefix.payload_bytes} bytes")
        return prefix

    def _frame(self, flag: int, algorithm: int, raw: memoryview) -> Frame:
        body = raw[HEADER_BYTES:]
        if len(body) > self._max_body_bytes and (flag == COMPRESSED or not is_stream_data(body)):
            raise FrameError(f"a body of {len(body)} bytes that is no StreamData")
        return Frame(flag, algorithm, body, raw)
