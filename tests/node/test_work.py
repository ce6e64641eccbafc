"""What a bad relay, or a visitor behind a good one, sends to a node costs it a turn at a time."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from proxyservice.net.intake import Intake
from proxyservice.net.turns import OWN_UNITS, SHARED_UNITS, Turns
from proxyservice.node.connection import BESIDE_LIMIT_BYTES, NodeConnection
from proxyservice.node.connection_owner import ConnectionSettings
from proxyservice.node.handshake import Handshake
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.known_relays import KnownRelays
from proxyservice.node.messages import Received
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.compression import compress
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, encode_frame
from proxyservice.wire.stream_frames import stream_control_frame
from tests.fuzz.node import CHALLENGE, OPENING, PEER, SERVER, WELCOME, Owner, Relay
from tests.net.test_turns import RunningClock
from tests.node.joined import Joined

NET = DEFAULT_NETWORK_ID
CLEAR = b"\x80\x40\x20\x10\x08\x04\x02\x01\x00"
"""Eight codes of LZW that say nothing."""


class Hearing(Owner):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Received] = []

    def message_received(self, message: Received) -> None:
        super().message_received(message)
        self.messages.append(message)


class Scene:
    def __init__(self) -> None:
        self.clock, self.owner = RunningClock(), Hearing()
        identity, owner = NodeIdentity(), self.owner
        self.turns = Turns(self.clock)
        given: Any = owner
        self.node = NodeConnection(
            "relay",
            ConnectionSettings(NET),
            identity,
            given,
            Handshake(NET, identity, "relay", KnownRelays()),
            self.clock,
            self.turns,
        )
        self.pair = Joined(self.node, Relay(), kernel_bytes=1 << 26)
        self.say(encode_message(NET, Opcode.CHALLENGE, CHALLENGE, sender=SERVER))
        self.say(encode_message(NET, Opcode.WELCOME, WELCOME, sender=SERVER))

    def say(self, data: bytes) -> int:
        """The relay says it; how many turns it took, none of them longer than the rest of one."""
        self.pair.server.write(data)
        turns = 0
        while True:
            self.pair.pump(112 * 1024)
            if not self.node._intake.waiting:
                return turns
            self.clock.turn()
            turns += 1
            assert self.turns.left_units > -10 * SHARED_UNITS, "one frame's work at most"

    def end(self) -> None:
        self.pair.server.abortConnection()
        self.clock.turn()
        assert not self.clock.getDelayedCalls()


def test_lzw_that_says_nothing_is_dropped_before_it_is_read_to_its_end() -> None:
    scene = Scene()
    body = CLEAR * (9 * (1 << 20) // 9)
    scene.say(encode_frame(NET, body, flag=1, algorithm=4))
    assert scene.node.dropped_frames == 1
    scene.end()


@pytest.mark.parametrize("algorithm", [2, 3, 4])
def test_a_large_message_arrives_in_slices_and_others_are_served_between(algorithm: int) -> None:
    scene = Scene()
    payload = bytes(range(256)) * 3000
    body = encode_message(NET, 1000, payload, sender=PEER)[10:]
    frame = encode_frame(NET, bytes(compress(algorithm, body)), flag=1, algorithm=algorithm)
    turns = scene.say(frame + encode_message(NET, 1001, b"next", sender=PEER))
    assert turns >= 2
    assert [one.payload for one in scene.owner.messages] == [payload, b"next"]
    scene.end()


@pytest.mark.parametrize("field", [b"\x5a\0", b"\x12\0", b"\x5b\x5c", b"\x4a\0"])
def test_a_message_of_crumbs_is_dropped_unread(field: bytes) -> None:
    scene = Scene()
    body = field * (BESIDE_LIMIT_BYTES // 2 + 1) + encode_message(NET, 1000, b"", sender=PEER)[10:]
    for said in (
        encode_frame(NET, body),
        encode_frame(NET, bytes(compress(2, body * 8)), flag=1, algorithm=2),
    ):
        scene.say(said)
    assert scene.node.dropped_frames == 2
    scene.say(encode_message(NET, 1000, b"good", sender=PEER))
    assert [one.payload for one in scene.owner.messages] == [b"good"]
    scene.end()


def test_members_of_nothing_take_turns() -> None:
    scene = Scene()
    body = gzip.compress(b"", mtime=0) * 20_000
    assert scene.say(encode_frame(NET, body, flag=1, algorithm=2)) > 10
    scene.end()


@pytest.mark.parametrize(
    ("opcode", "payload"),
    [
        (Opcode.STREAM_WINDOW, b"\x08\x01"),
        (Opcode.STREAM_END, b""),
        (Opcode.STREAM_RESET, b"\x08\x01"),
    ],
)
def test_frames_of_streams_take_turns(opcode: int, payload: bytes) -> None:
    scene = Scene()
    scene.say(encode_message(NET, Opcode.STREAM_OPEN, OPENING, sender=SERVER, request_nonce=1))
    frame = stream_control_frame(NET, opcode, 1, payload)
    assert scene.say(frame * 2000) >= 2000 * 4000 // (2 * SHARED_UNITS + OWN_UNITS)
    assert not scene.owner.ended
    scene.end()


@pytest.mark.parametrize(
    ("opcode", "payload"),
    [
        (Opcode.REFUSAL, pb.Refusal(code=4, reason="r" * 1025)),
        (Opcode.REFUSAL, pb.Refusal(code=4, retry_after_ms=1 << 62)),
        (Opcode.DRAINING, pb.Draining(reconnect_in_ms=1 << 62)),
        (Opcode.DRAINING, pb.Draining(try_for_ms=1 << 62)),
        (Opcode.STREAM_OPEN, pb.StreamOpen(visitor_address="v" * 513)),
        (Opcode.PROXY_RESPONSE, pb.ProxyResponse(proxy_address="p" * 513)),
        (Opcode.WELCOME, pb.Welcome(visitors_per_second=float("nan"))),
        (Opcode.WELCOME, pb.Welcome(keepalive_ms=(1 << 32) - 1)),
        (Opcode.REFUSAL, b"\x12\x00" * 5000),
    ],
)
def test_a_relay_that_says_too_much_is_a_broken_one(opcode: int, payload: Any) -> None:
    scene = Scene()
    scene.say(encode_message(NET, opcode, payload, sender=SERVER, request_nonce=1))
    assert len(scene.owner.ended) == 1
    assert scene.node.is_over
    scene.clock.turn()
    assert not scene.clock.getDelayedCalls()


def test_a_frame_of_a_visitor_is_not_judged_by_these_bounds() -> None:
    scene = Scene()
    who = pb.ID(net_key=bytes(5000), address="tcp://" + "h" * 600 + ":1", address2="x" * 5000)
    scene.say(encode_message(NET, 1000, bytes(300_000), sender=who))
    assert len(scene.owner.messages) == 1
    assert scene.owner.messages[0].sender.net_key == bytes(5000)
    scene.end()


def test_what_waits_is_let_go_with_the_connection() -> None:
    scene = Scene()
    body = bytes(compress(4, encode_message(NET, 1000, bytes(range(256)) * 900, sender=PEER)[10:]))
    scene.pair.server.write(encode_frame(NET, body, flag=1, algorithm=4))
    scene.pair.pump(1 << 20)
    intake: Intake = scene.node._intake
    assert intake.waiting
    scene.end()
    assert not scene.owner.messages
    assert intake.held_bytes == 0
