"""Intake: whatever the budget and the pieces, each frame is heard once, in order, in portions."""

from __future__ import annotations

from typing import Any

import pytest

from proxyservice.errors import FrameError, PeerError
from proxyservice.net.intake import Intake
from proxyservice.net.turns import OWN_UNITS, SHARED_UNITS, Turns
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.compression import compress
from proxyservice.wire.framing import (
    DEFAULT_NETWORK_ID,
    Frame,
    FrameDecoder,
    StreamPiece,
    encode_frame,
)
from proxyservice.wire.stream_frames import stream_data_prefix
from proxyservice.wire.work import FRAME_UNITS
from tests.net.test_turns import RunningClock

NET = DEFAULT_NETWORK_ID
MOST = 1 << 18
A_TURN = (OWN_UNITS + SHARED_UNITS) // FRAME_UNITS + 1


class Paused:
    """The transport below: whether it is read."""

    reading = True

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True


class Owner:
    """Hears frames, as long as it wants to."""

    def __init__(self, turns: Turns, *, streams: bool = False, beside: int = 4096) -> None:
        self.transport: Any = Paused()
        self.heard: list[bytes] = []
        self.dropped = 0
        self.broken: PeerError | None = None
        self.hears, self.is_over = True, False
        self.deaf_after = -1
        decoder = FrameDecoder(NET, MOST, MOST if streams else 0)
        self.intake = Intake(self, decoder, turns, MOST, beside)

    def piece(self, piece: StreamPiece) -> None:
        self.heard.append(bytes(piece.payload))

    def frame(self, frame: Frame, body: bytes | memoryview) -> None:
        self.heard.append(bytes(body))
        if len(self.heard) == self.deaf_after:
            self.hears = False

    def unreadable(self, error: FrameError) -> None:
        self.dropped += 1

    def took_turn(self) -> None:
        self.held_bytes = self.intake.held_bytes

    def broke(self, error: PeerError) -> None:
        self.broken, self.is_over = error, True


def bodies(count: int) -> list[bytes]:
    return [
        pb.Message(opcode=1 + n, message=b"x" * (n % 50)).SerializeToString() for n in range(count)
    ]


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("algorithm", [0, 2, 4])
def test_all_is_heard_in_order_a_turn_at_a_time(piece_bytes: int, algorithm: int) -> None:
    clock = RunningClock()
    owner = Owner(Turns(clock))
    said = bodies(400)
    packed = [bytes(compress(algorithm, body)) for body in said]
    data = b"".join(
        encode_frame(NET, one, flag=int(algorithm > 0), algorithm=algorithm) for one in packed
    )
    for at in range(0, len(data), piece_bytes):
        owner.intake.feed(memoryview(data)[at : at + piece_bytes])
    assert len(owner.heard) <= A_TURN
    assert not owner.transport.reading
    assert owner.intake.held_bytes > 0
    while owner.intake.waiting:
        before = len(owner.heard)
        clock.turn()
        assert len(owner.heard) - before <= A_TURN
    assert owner.heard == said
    assert owner.transport.reading
    assert owner.intake.held_bytes == 0


def test_what_comes_while_others_wait_is_behind_them() -> None:
    """TLS hands over what it has decrypted, paused or not."""
    clock = RunningClock()
    owner = Owner(Turns(clock), streams=True)
    said = [b"%d" % n for n in range(600)]
    for one in said:
        owner.intake.feed(memoryview(stream_data_prefix(NET, 1, len(one)) + one))
    assert len(owner.heard) < len(said)
    while owner.intake.waiting:
        clock.turn()
    assert owner.heard == said


def test_a_body_is_inflated_over_several_turns() -> None:
    clock = RunningClock()
    owner = Owner(Turns(clock))
    body = pb.Message(opcode=9, message=bytes(range(256)) * 900).SerializeToString()
    packed = bytes(compress(4, body))
    follows = bodies(3)
    data = encode_frame(NET, packed, flag=1, algorithm=4)
    data += b"".join(encode_frame(NET, one) for one in follows)
    turns = 0
    owner.intake.feed(memoryview(data))
    while owner.intake.waiting:
        clock.turn()
        turns += 1
        if owner.intake.waiting and not owner.heard:
            assert owner.held_bytes >= MOST, "what it may become is counted before it is"
    assert turns > 3
    assert owner.heard == [body, *follows]
    assert owner.held_bytes == 0


def test_an_owner_that_does_not_hear_is_asked_again() -> None:
    clock = RunningClock()
    owner = Owner(Turns(clock))
    owner.deaf_after = 2
    said = bodies(5)
    owner.intake.feed(memoryview(b"".join(encode_frame(NET, one) for one in said)))
    clock.turn()
    assert owner.heard == said[:2], "not before it hears again"
    assert not owner.transport.reading
    owner.hears = True
    owner.intake.go_on()
    assert owner.heard == said
    assert owner.transport.reading


@pytest.mark.parametrize("field", [b"\x5a\0", b"\x12\0", b"\x5b\x5c", b"\x0a\0"])
def test_a_message_of_crumbs_is_not_read(field: bytes) -> None:
    clock = RunningClock()
    owner = Owner(Turns(clock))
    body = field * (250_000 // len(field))
    for flag, algorithm in ((0, 0), (1, 2)):
        raw = bytes(compress(algorithm, body)) if flag else body
        owner.intake.feed(memoryview(encode_frame(NET, raw, flag=flag, algorithm=algorithm)))
    while owner.intake.waiting:
        clock.turn()
    assert owner.dropped == 2
    assert not owner.heard


def test_who_is_over_hears_nothing_more() -> None:
    clock = RunningClock()
    owner = Owner(Turns(clock))
    data = b"".join(encode_frame(NET, one) for one in bodies(400))
    owner.intake.feed(memoryview(data))
    heard = len(owner.heard)
    owner.is_over = True
    owner.intake.close()
    clock.turn()
    clock.turn()
    assert len(owner.heard) == heard
    assert not clock.getDelayedCalls()


def test_a_broken_frame_is_told_once_and_in_its_turn() -> None:
    clock = RunningClock()
    owner = Owner(Turns(clock))
    good = bodies(100)
    data = b"".join(encode_frame(NET, one) for one in good) + encode_frame(NET + 1, b"x")
    owner.intake.feed(memoryview(data))
    while owner.intake.waiting and owner.broken is None:
        clock.turn()
    assert owner.heard == good
    assert isinstance(owner.broken, FrameError)
