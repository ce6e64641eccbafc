"""What comes in on a main connection, read as fast as its share of the turns allows.

Bytes become frames, compressed bodies are inflated, and each frame is handed
to its owner. When the turn's work is used up, or the owner does not want to
hear more for now, the rest waits here and the connection is not read: one read
at most. What a frame means is the owner's.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, Protocol

from proxyservice.errors import FrameError, PeerError
from proxyservice.net.turns import Share, Turns
from proxyservice.wire.compression import decompress_slices
from proxyservice.wire.framing import COMPRESSED, Frame, FrameDecoder, StreamPiece
from proxyservice.wire.relay_rules import beside_payload_bytes
from proxyservice.wire.work import FRAME_UNITS, STREAM_PIECE_UNITS, body_units

_PAYLOAD_SHARE: Final = 16
"""Payload is copied, not read: so many bytes of it cost one unit."""


class Hearer(Protocol):
    """The owner of a main connection's input."""

    transport: Any

    @property
    def hears(self) -> bool:
        """It wants the next frame now; else it calls `Intake.go_on` when it does."""

    @property
    def is_over(self) -> bool:
        """It wants nothing any more."""

    def piece(self, piece: StreamPiece) -> None:
        """A part of a StreamData. Raises PeerError."""

    def frame(self, frame: Frame, body: bytes | memoryview) -> None:
        """A frame, and its body inflated; views are valid during the call. Raises PeerError."""

    def unreadable(self, error: FrameError) -> None:
        """A frame whose body is no message. Raises PeerError where that ends the connection."""

    def broke(self, error: PeerError) -> None:
        """The peer broke the protocol: nothing more of it is read."""

    def took_turn(self) -> None:
        """What waited was read, or some of it: less is held than before."""


class _Inflating:
    """A compressed frame on its way to being plain."""

    def __init__(self, frame: Frame, limit_bytes: int) -> None:
        body = memoryview(bytes(frame.body))
        self.frame = Frame(frame.flag, frame.algorithm, body, body)
        self.slices: Generator[int, None, bytes | memoryview] = decompress_slices(
            frame.algorithm, body, limit_bytes
        )
        self.plain: bytes | memoryview | None = None
        self.owed_units = FRAME_UNITS


class Intake:
    """One per main connection. ``beside_limit_bytes``: of a message beside its long fields.

    ``source``: with whom it shares its turns; None: with nobody.
    """

    def __init__(
        self,
        owner: Hearer,
        decoder: FrameDecoder,
        turns: Turns,
        inflated_limit_bytes: int,
        beside_limit_bytes: int,
        source: str | None = None,
    ) -> None:
        self._owner = owner
        self._decoder = decoder
        self._turns = turns
        self._share = Share(turns, source)
        self._inflated_limit_bytes = inflated_limit_bytes
        self._beside_limit_bytes = beside_limit_bytes
        self._inflating: _Inflating | None = None
        self._waiting = False

    @property
    def waiting(self) -> bool:
        """Something that came is yet to be read, and the connection is paused meanwhile."""
        return self._waiting

    @property
    def held_bytes(self) -> int:
        """What lies here and in the decoder, with all that a body that is inflated may become."""
        inflating = self._inflating
        held_bytes = self._decoder.buffered_bytes
        if inflating is None:
            return held_bytes
        return held_bytes + len(inflating.frame.body) + self._inflated_limit_bytes

    def feed(self, view: memoryview) -> None:
        """Bytes came; a view is valid during the call. A transport may have more after a pause."""
        if self._waiting:
            self._decoder.keep(view)
        else:
            self._read(view)

    def go_on(self) -> None:
        """The owner hears again."""
        if self._waiting:
            self._turns.forget(self, self._share)
            self.work_turn()

    def work_turn(self) -> None:
        """Its turn: read what waits; when nothing does any more, let the transport read."""
        self._waiting = False
        self._read(memoryview(b""))
        self._owner.took_turn()
        if not self._waiting and not self._owner.is_over:
            self._owner.transport.resumeProducing()

    def work_failed(self) -> None:
        """Our own mistake; the connection goes, as it does when a read fails."""
        self._owner.transport.abortConnection()

    def charge(self, units: int) -> None:
        """What was heard last was so much more work than a frame is."""
        self._share.spend(units)

    def close(self) -> None:
        """Nothing will be read any more."""
        self._turns.forget(self, self._share)
        self._inflating = None
        self._decoder.close()

    def _read(self, view: memoryview) -> None:
        owner = self._owner
        try:
            if self._inflating is not None:
                if not self._inflate(self._inflating):
                    self._decoder.keep(view)
                    self._wait()
                    return
                if owner.is_over:
                    return
            items = self._decoder.feed(view)
            try:
                for item in items:
                    if isinstance(item, StreamPiece):
                        owner.piece(item)  # its bytes are within what was granted
                        is_next = self._paid(STREAM_PIECE_UNITS)
                    else:
                        is_next = self._take(item)
                    if not is_next:
                        self._wait()
                    elif owner.is_over:
                        return
            finally:
                items.close()
        except PeerError as error:
            owner.broke(error)

    def _take(self, item: Frame) -> bool:
        """Hand it on; False when it has to wait, or what follows it has."""
        owner = self._owner
        if not owner.hears:
            self._decoder.put_off(again=True)
            return False
        if item.flag == COMPRESSED:
            self._inflating = _Inflating(item, self._inflated_limit_bytes)
            if self._inflate(self._inflating):
                return True
            self._decoder.put_off()
            return False
        try:
            units = self._units(item.body)
        except FrameError as error:
            owner.unreadable(error)
            return self._paid(FRAME_UNITS)
        if not self._share.take(units):
            self._decoder.put_off(again=True)
            return False
        owner.frame(item, item.body)
        return True

    def _paid(self, units: int) -> bool:
        """What was done is paid for, else what follows it waits."""
        if self._share.take(units) or self._owner.is_over:
            return True
        self._decoder.put_off()
        return False

    def _units(self, body: bytes | memoryview) -> int:
        """What it costs to read a body and to act on it. Raises FrameError for one of crumbs."""
        beside_bytes = beside_payload_bytes(body)
        if beside_bytes > self._beside_limit_bytes:
            raise FrameError(f"a Message with {beside_bytes} bytes beside its payload")
        payload_bytes = len(body) - beside_bytes
        return FRAME_UNITS + body_units(beside_bytes) + payload_bytes // _PAYLOAD_SHARE

    def _inflate(self, inflating: _Inflating) -> bool:
        """Go on with it, and hand it on when it is plain; False when that has to wait."""
        if not self._owner.hears:
            return False
        try:
            while inflating.plain is None:
                if not self._pay(inflating):
                    return False
                try:
                    inflating.owed_units = next(inflating.slices)
                except StopIteration as done:
                    plain: bytes | memoryview = done.value
                    inflating.owed_units = self._units(plain)
                    inflating.plain = plain
            if not self._pay(inflating):
                return False
        except FrameError as error:
            self._inflating = None
            self._owner.unreadable(error)
            return True
        self._inflating = None
        self._owner.frame(inflating.frame, inflating.plain)
        return True

    def _pay(self, inflating: _Inflating) -> bool:
        if not self._share.take(inflating.owed_units):
            return False
        inflating.owed_units = 0
        return True

    def _wait(self) -> None:
        """Not read from now on; the owner's word, or a turn, brings it on."""
        if not self._waiting:
            self._waiting = True
            self._owner.transport.pauseProducing()
            if self._owner.hears:
                self._turns.wait(self, self._share)
