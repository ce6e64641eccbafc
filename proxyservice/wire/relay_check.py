"""A visitor's bytes, cut into frames and checked, in runs to be relayed as they are.

`RelayScanner` has the visitor's bytes received into memory that it provides,
checks all frames of one read in one pass and yields them as one *run*: a slice
of that memory. What is unfinished stays where it is, to be completed in place;
nothing is copied but short beginnings. Rules: `relay_rules.py`, and
docs/protocol.md, "Message relay".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from proxyservice.errors import FrameError
from proxyservice.wire.compression import Algorithm, decompress_slices
from proxyservice.wire.framing import COMPRESSED, HEADER, HEADER_BYTES
from proxyservice.wire.relay_rules import (
    MESSAGE_TAG,
    RelayRules,
    common_ending,
    read_varint,
    usual_sender,
)
from proxyservice.wire.spare_buffers import KEPT_BYTES, SpareBuffers
from proxyservice.wire.work import BODY_UNITS, LOOK_UNITS, take_any

READ_BYTES = 192 * 1024
"""Most bytes of one read, unless frames are larger; measured: 128 and 512 KiB are slower."""

_LARGE_FRAME_BYTES = 16 * 1024
"""From here on reads are made to end where a frame does, and beginnings stay in place."""

_USUAL_LEAST_BYTES = 16
"""A shorter body has no good sender."""

_SPARE = SpareBuffers()
_NO_BUFFER = bytearray()


class RelayScanner:
    """One visitor's direction; after an error it refuses further input.

    Receive into `room()`, then walk `received(count)`; or `feed` what lies
    elsewhere. ``inflate_check_bytes`` above 0 also inflates and checks
    compressed bodies up to that size, and refuses what inflates to more; by
    default they are passed on unread. Memory grows with the bytes that came,
    never with a header's claim. ``take`` is asked before the work of reading a
    body that is not as usual (units of `work.py`); when it says no, that frame
    and what follows it wait.
    """

    def __init__(
        self,
        network_id: int,
        max_body_bytes: int,
        inflate_check_bytes: int = 0,
        spare: SpareBuffers = _SPARE,
        take: Callable[[int], bool] = take_any,
    ) -> None:
        self._network_id = network_id
        self._max_body_bytes = max_body_bytes
        self._inflate_check_bytes = inflate_check_bytes
        self._spare = spare
        self.take = take
        """Where the work comes from; whoever goes on with this scanner may name another place."""
        self._rules = RelayRules(network_id)
        self._usual_ending = common_ending(network_id)
        self._usual_sender = b""  # the sender field last accepted
        self._buffer = _NO_BUFFER  # lent; what is unfinished stands at its start
        self._begun = b""  # or here, when it is short
        self._filled_bytes = 0
        self._frame_bytes = 0  # of the unfinished frame, header and all, once known
        self._read_bytes = READ_BYTES
        self._slices: Generator[int, None, bytes | memoryview] | None = None  # of the next frame
        self._inflated: bytes | memoryview | None = None
        self._owed_units = 0
        self._failed = False
        self.waits = False
        """Frames are here that are yet to be checked: `go_on` when there is time for it."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes held of a frame that is not all here, and of those that wait."""
        return self._filled_bytes

    @property
    def memory_bytes(self) -> int:
        """What an unfinished frame keeps here, with room for more of it, or for it inflated."""
        inflating = self._inflate_check_bytes if self._slices is not None else 0
        return (len(self._buffer) or len(self._begun)) + inflating

    @property
    def unfinished_frame_bytes(self) -> int:
        """How long that frame is to be, as far as is known."""
        return self._frame_bytes or self._filled_bytes

    def room(self) -> memoryview:
        """Where the next bytes go; never empty, valid until `received`."""
        filled = self._filled_bytes
        wanted = max(self._read_bytes, self._frame_bytes)
        if self.waits:
            wanted = max(wanted, filled + READ_BYTES)
        if len(self._buffer) < max(self._read_bytes, filled + 1):
            self._move(min(wanted, max(self._read_bytes, 2 * filled)), 0, filled)
        return memoryview(self._buffer)[filled:wanted]

    def received(self, count: int) -> Iterator[memoryview]:
        """Yield the run of good frames that these bytes of `room` complete, if any.

        The view is valid until the next step of the iterator, which is to be
        walked to its end. Raises FrameError at the first bad frame, after the
        run of those before it.
        """
        stop = self._filled_bytes + count
        end, failure = self._scan(stop)
        if end:
            yield memoryview(self._buffer)[:end]
        if failure is not None:
            self.close()
            try:
                raise failure
            finally:
                del failure  # else it and this frame hold each other, and with them the buffer
        self._keep(end, stop)

    def go_on(self) -> Iterator[memoryview]:
        """The same for what waits, without a further byte."""
        self.room()  # what is short does not lie in a buffer
        return self.received(0)

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
        """The same for bytes that were received elsewhere."""
        rest = memoryview(data)
        while rest:
            if self._failed:
                raise FrameError("bytes after a bad frame")
            room = self.room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            rest = rest[count:]
            yield from self.received(count)

    def close(self) -> None:
        """No more will come: what is unfinished is dropped, and its memory goes to others."""
        self._failed = True
        self._give_back()
        self._filled_bytes, self._begun, self._buffer = 0, b"", _NO_BUFFER
        self._slices = self._inflated = None

    # ----------------------------------------------------------------- memory

    def _keep(self, start: int, stop: int) -> None:
        """What is unfinished goes to the start of the buffer, or out of it when it is short."""
        unfinished = self._filled_bytes = stop - start
        if unfinished < _LARGE_FRAME_BYTES:
            self._begun = bytes(memoryview(self._buffer)[start:stop])
            self._give_back()
            self._buffer = _NO_BUFFER
        elif len(self._buffer) > 2 * (ample := 2 * max(self._read_bytes, unfinished)):
            self._move(ample, start, stop)
        elif start:
            view = memoryview(self._buffer)
            view[:unfinished] = view[start:stop]

    def _move(self, at_least_bytes: int, start: int, stop: int) -> None:
        """Take another buffer, with this part of the present one at its start."""
        buffer = self._spare.take(at_least_bytes)
        buffer[: stop - start] = self._begun or memoryview(self._buffer)[start:stop]
        self._give_back()
        self._buffer, self._begun = buffer, b""

    def _give_back(self) -> None:
        if self._buffer:
            self._spare.give_back(self._buffer)

    def _expect_more_of(self, body_bytes: int) -> None:
        """Read so many bytes at once that a read ends where a frame of this size does."""
        frame_bytes = HEADER_BYTES + body_bytes
        if _LARGE_FRAME_BYTES <= frame_bytes <= KEPT_BYTES:
            self._read_bytes = max(1, round(READ_BYTES / frame_bytes)) * frame_bytes
        else:
            self._read_bytes = READ_BYTES

    # ----------------------------------------------------------------- frames

    def _scan(self, end: int) -> tuple[int, FrameError | None]:
        """Check all whole frames before `end`; return where the good ones end, and why there."""
        data, network_id, most = self._buffer, self._network_id, self._max_body_bytes
        header_at, starts, ends_usually = HEADER.unpack_from, data.startswith, self._usual_ending
        sender, pos, good_body_bytes = self._usual_sender, 0, 0
        self._frame_bytes, self.waits = 0, False
        while end - pos >= HEADER_BYTES:
            network, flag, algorithm, body_bytes = header_at(data, pos)
            if network != network_id or not 0 < body_bytes <= most:
                return pos, FrameError(f"network id {network:#010x}, body of {body_bytes} bytes")
            body = pos + HEADER_BYTES
            stop = body + body_bytes
            if stop > end:
                self._frame_bytes = stop - pos
                break
            known = False
            if sender and flag != COMPRESSED and body_bytes >= _USUAL_LEAST_BYTES:
                at = body
                if data[at] == MESSAGE_TAG:
                    size = data[at + 1]
                    at += 2 + size
                    if size > 0x7F:
                        size, at = read_varint(data, body + 1)
                        at = at + size if at else stop
                known = starts(sender, at, stop)
                if known and ends_usually(data, at + len(sender), stop):
                    pos, good_body_bytes = stop, body_bytes
                    continue
            try:
                if not self._check(flag, algorithm, memoryview(data)[body:stop], known):
                    self.waits = True
                    break
            except FrameError as error:
                return pos, error
            sender, pos, good_body_bytes = self._usual_sender, stop, body_bytes
        if good_body_bytes:
            self._expect_more_of(good_body_bytes)
        return pos, None

    def _check(self, flag: int, algorithm: int, body: memoryview, known: bool) -> bool:
        """Judge one body by the rules, and note its sender if not known. Raises FrameError.

        False when there is no time for it now.
        """
        if flag != COMPRESSED or algorithm in (Algorithm.NONE, Algorithm.BZIP2, Algorithm.FLAT):
            if not self._rules.check(body, self.take):
                return False
            if not known:
                self._usual_sender = usual_sender(body) or self._usual_sender
            return True
        if not self.take(LOOK_UNITS):
            return False
        _check_compressed_start(algorithm, body)
        return len(body) > self._inflate_check_bytes or self._look_into(algorithm, body)

    def _look_into(self, algorithm: int, body: memoryview) -> bool:
        """Inflate a body and judge it, a slice at a time; False when the rest has to wait."""
        if self._inflated is None:
            if self._slices is None:
                whole = bytes(body)  # it may be moved before the last slice
                limit_bytes = self._inflate_check_bytes
                self._slices = decompress_slices(algorithm, whole, limit_bytes)
                self._owed_units = BODY_UNITS
            while self._inflated is None:
                if not self.take(self._owed_units):
                    return False
                try:
                    self._owed_units = next(self._slices)
                except StopIteration as done:
                    self._inflated = done.value
        if not self._rules.check(self._inflated, self.take):
            return False
        self._inflated = self._slices = None
        return True


def _check_compressed_start(algorithm: int, body: memoryview) -> None:
    """Look at the first bytes only: nothing of a visitor is inflated unasked."""
    if algorithm == Algorithm.GZIP:
        good = bytes(body[:3]) == b"\x1f\x8b\x08"
    elif algorithm == Algorithm.ZLIB:
        head = int.from_bytes(body[:2], "big")
        good = len(body) >= 2 and head % 31 == 0 and head >> 8 & 0x0F == 8 and not head & 0x20
        good = good and head >> 12 <= 7
    else:
        good = algorithm == Algorithm.LZW
    if not good:
        raise FrameError(f"the body is not compressed by algorithm {algorithm}")
