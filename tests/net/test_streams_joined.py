"""Both ends of a relay, joined in memory: bytes, ends, resets, backpressure, any chunking."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from proxyservice.streams.windows import CREDIT_BOUND_BYTES, DEFAULT_WINDOW_BYTES
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import encode_frame
from tests.leases.harness import store_thread
from tests.net.joined import HandingPair, LendingPair, Scene, Visitor
from tests.node.joined import Joined
from tests.server.memory import NET, MemoryRelay, RawNode

KIB = 1024
MUTATIONS = 10_000 if os.environ.get("PROXYSERVICE_FULL") == "1" else 150


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


def some(n_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(n_bytes)


# --------------------------------------------------------------------- every chunking

CHUNKINGS = [  # bytes moved at a time, bytes in the kernel, size of what is sent
    (1, 1, 700),
    pytest.param(1, 1 << 20, 3_000, marks=pytest.mark.heavy),
    (2, 3, 2_000),
    (9, 1 << 16, 8_000),
    (10, 10, 8_000),
    (11, 64, 8_000),
    (13, 1 << 16, 8_000),
    (1000, 1500, 300_000),
    (1 << 16, 1 << 14, 700_000),
    (1 << 18, 1 << 20, 3_000_000),
]


@pytest.mark.parametrize(
    "pair",
    [LendingPair, pytest.param(HandingPair, marks=pytest.mark.heavy)],
    ids=["lending", "handing"],
)
@pytest.mark.parametrize("over_sockets", [True, False], ids=["sockets", "protocols"])
@pytest.mark.parametrize(("chunk", "kernel", "size"), CHUNKINGS)
def test_bytes_are_equal_both_ways_in_every_chunking(
    pair: type[Joined], over_sockets: bool, chunk: int, kernel: int, size: int
) -> None:
    scene = Scene(over_sockets=over_sockets, pair=pair, chunk_bytes=chunk, kernel_bytes=kernel)
    visitors = [scene.visit() for _ in range(3)]
    for number, visitor in enumerate(visitors):
        visitor.transport.write(some(size // (number + 1), number))
        visitor.transport.loseWriteConnection()
    scene.pump()
    for number, visitor in enumerate(visitors):
        assert visitor.got == some(size // (number + 1), number)
        assert isinstance(visitor.lost, ConnectionDone)
    assert scene.streams() == (0, 0)
    assert [isinstance(target.lost, ConnectionDone) for target in scene.targets] == [True] * 3


@implementer(IHalfCloseableProtocol)
class Talker(Protocol):
    """Says something, at once, and ends; goes on listening."""

    transport: Any

    def __init__(self) -> None:
        self.heard = b""
        self.ended = False
        self.lost: Any = None

    def connectionMade(self) -> None:
        self.transport.write(some(400_000, 9))
        self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def readConnectionLost(self) -> None:
        self.ended = True

    def writeConnectionLost(self) -> None: ...

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason.value


@pytest.mark.parametrize("over_sockets", [True, False])
def test_who_ends_first_still_hears_everything(over_sockets: bool) -> None:
    scene = Scene(Talker, over_sockets=over_sockets, kernel_bytes=5000)
    visitor = scene.visit()
    scene.pump()
    assert visitor.got == some(400_000, 9)
    assert visitor.ended
    assert visitor.lost is None
    for number in range(5):
        visitor.transport.write(some(100_000, number))
        scene.pump()
    (target,) = scene.targets
    assert target.heard == b"".join(some(100_000, number) for number in range(5))
    assert not target.ended
    visitor.transport.loseWriteConnection()
    scene.pump()
    assert isinstance(visitor.lost, ConnectionDone)
    assert isinstance(target.lost, ConnectionDone)
    assert scene.streams() == (0, 0)


class Greeter(Protocol):
    """Knows nothing of half-close: the visitor's end is the end."""

    transport: Any
    lost: Any = None

    def connectionMade(self) -> None:
        self.transport.write(b"hello")

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason.value


def test_a_protocol_without_half_close_is_closed_when_the_visitor_ends() -> None:
    scene = Scene(Greeter)
    visitor = scene.visit()
    visitor.transport.loseWriteConnection()
    scene.pump()
    assert visitor.got == b"hello"
    assert isinstance(scene.targets[0].lost, ConnectionDone)
    assert scene.streams() == (0, 0)


# ----------------------------------------------------------------------------- resets


@pytest.mark.parametrize("over_sockets", [True, False])
def test_a_visitor_that_breaks_off_is_no_orderly_end(over_sockets: bool) -> None:
    scene = Scene(over_sockets=over_sockets)
    visitor, other = scene.visit(), scene.visit()
    visitor.transport.write(b"half of")
    scene.pump()
    visitor.transport.abortConnection()
    scene.pump()
    assert isinstance(scene.targets[0].lost, ConnectionLost)
    assert scene.targets[1].lost is None
    assert scene.streams() == (1, 1)
    other.transport.write(b"all is well")
    scene.pump()
    assert other.got == b"all is well"


@pytest.mark.parametrize("over_sockets", [True, False])
def test_a_target_that_breaks_off_resets_its_visitor_alone(over_sockets: bool) -> None:
    scene = Scene(over_sockets=over_sockets)
    visitor, other = scene.visit(), scene.visit()
    scene.targets[0].transport.abortConnection()
    scene.pump()
    assert isinstance(visitor.lost, ConnectionLost)
    assert isinstance(scene.targets[0].lost, ConnectionAborted)
    assert other.lost is None
    assert scene.streams() == (1, 1)


@pytest.mark.parametrize("over_sockets", [True, False])
@pytest.mark.parametrize("side", ["client", "server"])
def test_the_loss_of_the_main_connection_cuts_everybody(over_sockets: bool, side: str) -> None:
    scene = Scene(over_sockets=over_sockets)
    visitors = [scene.visit() for _ in range(4)]
    for visitor in visitors:
        visitor.transport.write(some(10_000))
    getattr(scene.main, side).abortConnection()
    scene.pump()
    for end in (*visitors, *scene.targets):
        assert end.lost is not None
        assert not isinstance(end.lost, ConnectionDone), "a cut transfer must not look complete"


def test_visitors_that_open_and_break_off_leave_nothing() -> None:
    scene = Scene()
    for _ in range(2000):
        scene.visit().transport.abortConnection()
        scene.pump()
        del scene.relay.pairs[1:]
    assert scene.streams() == (0, 0)
    assert scene.main.server.protocol.switch.multiplexer.granted_bytes == 0
    assert scene.main.client.protocol.switch.multiplexer.granted_bytes == 0


# ------------------------------------------------------------------------ backpressure


@pytest.mark.parametrize("over_sockets", [True, False])
def test_a_visitor_that_does_not_read_stops_itself_alone(over_sockets: bool) -> None:
    scene = Scene(over_sockets=over_sockets, kernel_bytes=20_000)
    slow, quick = scene.visit(), scene.visit()
    slow.transport.reading = False
    said = some(6_000_000)
    slow.transport.write(said)
    slow.transport.loseWriteConnection()
    quick.transport.write(some(1_000_000, 2))
    quick.transport.loseWriteConnection()
    scene.pump()
    assert quick.got == some(1_000_000, 2)
    assert isinstance(quick.lost, ConnectionDone)
    multiplexers = [
        end.protocol.switch.multiplexer for end in (scene.main.client, scene.main.server)
    ]
    held = [sum(stream.receive.held_bytes for stream in one) for one in multiplexers]
    assert sum(held) < 3_000_000, "most of it waits where it came from"
    slow.transport.reading = True
    scene.pump()
    assert slow.got == said


@pytest.mark.parametrize("over_sockets", [True, False])
def test_a_node_that_does_not_read_pauses_its_visitors_and_loses_nothing(
    over_sockets: bool,
) -> None:
    scene = Scene(over_sockets=over_sockets, kernel_bytes=20_000)
    visitors = [scene.visit() for _ in range(10)]
    scene.main.client.reading = False
    for number, visitor in enumerate(visitors):
        visitor.transport.write(some(500_000, number))
        visitor.transport.loseWriteConnection()
    scene.pump()
    assert len(scene.main.server.queue) < 2 * DEFAULT_WINDOW_BYTES
    scene.main.client.reading = True
    scene.pump()
    assert [one.got == some(500_000, n) for n, one in enumerate(visitors)] == [True] * 10


def test_ends_and_credit_wait_while_the_connection_is_full_and_are_said_once() -> None:
    scene = Scene(kernel_bytes=4096)
    scene.main.client.reading = False
    bulk = scene.visit()
    bulk.transport.write(some(300_000))
    scene.pump()
    passing = [scene.visit() for _ in range(300)]
    for visitor in passing:
        visitor.transport.write(b"x")
        visitor.transport.loseWriteConnection()
    scene.pump()
    assert len(scene.main.server.queue) < 2 * DEFAULT_WINDOW_BYTES
    scene.main.client.reading = True
    scene.pump()
    assert [visitor.got for visitor in passing] == [b"x"] * 300


def test_streams_beyond_the_bound_are_turned_away_and_the_rest_goes_on() -> None:
    scene = Scene(kernel_bytes=1000)
    scene.main.client.reading = False
    visitors: list[Visitor] = []
    while (visitor := scene.relay.visit(scene.port, Visitor(), host="127.0.0.1")) is not None:
        assert isinstance(visitor, Visitor)
        visitors.append(visitor)
    multiplexer = scene.main.server.protocol.switch.multiplexer
    assert multiplexer.granted_bytes <= CREDIT_BOUND_BYTES
    assert len(visitors) >= 1000
    scene.main.client.reading = True
    for visitor in visitors:
        visitor.transport.write(b"hello")
        visitor.transport.loseWriteConnection()
    scene.pump()
    assert all(visitor.got == b"hello" for visitor in visitors)


# --------------------------------------------- StreamData in other forms, and what is wrong


@pytest.fixture
def served() -> tuple[MemoryRelay, RawNode, Visitor]:
    relay = MemoryRelay(join=LendingPair)
    node = relay.node()
    node.prove()
    visitor = relay.visit(node.lease(), Visitor())
    node.take(Opcode.STREAM_OPEN)
    assert isinstance(visitor, Visitor)
    return relay, node, visitor


def forms(payload: bytes, sender: pb.ID) -> dict[str, bytes]:
    """One StreamData in several legal shapes."""
    message = b"\x0a" + bytes((len(payload),)) + payload
    return {
        "canonical": encode_frame(NET, b"\x38\x29\x20\x01" + message),
        "message first": encode_frame(NET, message + b"\x38\x29\x20\x01"),
        "id first": encode_frame(NET, b"\x20\x01\x38\x29" + message),
        "long varints": encode_frame(NET, b"\x38\xa9\x00\x20\x81\x00" + message),
        "id twice": encode_frame(NET, b"\x38\x29\x20\x07\x20\x01" + message),
        "unknown field": encode_frame(NET, b"\x38\x29\x20\x01" + message + b"\xfa\x7f\x01x"),
        "message twice": encode_frame(NET, b"\x38\x29\x20\x01\x0a\x03no!" + message),
        "whole": encode_message(
            NET, Opcode.STREAM_DATA, payload, sender=sender, request_nonce=1, message_nonce=99
        ),
    }


@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.heavy), 3, 1 << 16])
def test_stream_data_in_other_forms_is_the_same(
    served: tuple[MemoryRelay, RawNode, Visitor], chunk: int
) -> None:
    relay, node, visitor = served
    relay._chunk_bytes = chunk
    expected = b""
    for name, raw in forms(b"payload of it", node.sender).items():
        node.write(raw)
        expected += b"payload of it"
        assert visitor.got == expected, name
    largest = some(256 * KIB - len(expected))
    node.write(data(len(largest)).replace(bytes(len(largest)), largest))
    assert visitor.got == expected + largest
    assert node.lost is None


def window(credit: int, stream_id: int = 1) -> bytes:
    payload = pb.StreamWindow(credit=credit).SerializeToString()
    message = pb.Message(opcode=42, request_nonce=stream_id, message=payload)
    return encode_frame(NET, message.SerializeToString())


def data(n_bytes: int, stream_id: int = 1, **header: int) -> bytes:
    message = pb.Message(opcode=41, request_nonce=stream_id, message=bytes(n_bytes))
    return encode_frame(NET, message.SerializeToString(), **header)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(data(256 * KIB) * 80, id="data beyond credit"),
        pytest.param(data(256 * KIB + 1), id="a payload too long"),
        pytest.param(data(5, 2), id="data of an id that never was"),
        pytest.param(data(5, 0), id="data of id 0"),
        pytest.param(data(5, flag=1, algorithm=1), id="a compressed frame"),
        pytest.param(window(0), id="credit of nothing"),
        pytest.param(window((1 << 31) - 1), id="too much credit"),
        pytest.param(window(1, 2), id="credit of an id that never was"),
        pytest.param(encode_frame(NET, b"\x38\x2a\x20\x01\x0a\x02\x08"), id="no StreamWindow"),
        pytest.param(encode_frame(NET, b"\x38\x2b\x20\x09"), id="end of an id that never was"),
        pytest.param(encode_frame(NET, b"\x38\x2c\x20\x09"), id="reset of an id that never was"),
        pytest.param(encode_frame(NET, b"\x38\x28\x20\x02"), id="an opening by the node"),
        pytest.param(encode_frame(NET, b"\x20\x01"), id="no opcode"),
        pytest.param(encode_frame(NET, b"\xff" * 30), id="no Message"),
        pytest.param(encode_frame(NET + 1, b"\x38\x2b\x20\x01"), id="another network"),
    ],
)
def test_what_breaks_the_rules_ends_the_connection_with_a_reason(
    served: tuple[MemoryRelay, RawNode, Visitor], raw: bytes
) -> None:
    relay, node, visitor = served
    visitor.transport.reading = False
    node.write(raw)
    first = next(said for said in node.heard() if said.opcode != Opcode.STREAM_WINDOW)
    assert (first.opcode, first.message.request_nonce) == (Opcode.REFUSAL, 0)
    assert first.payload.code == pb.REFUSAL_MALFORMED
    relay.pass_time(6)
    assert node.lost is not None
    assert visitor.lost is not None
    assert not isinstance(visitor.lost, ConnectionDone)


@pytest.mark.parametrize("form", ["canonical", "other"])
def test_a_payload_has_a_limit_whatever_the_credit(
    served: tuple[MemoryRelay, RawNode, Visitor], form: str
) -> None:
    _, node, visitor = served
    for _ in range(4):
        node.write(data(200 * KIB))  # the window grows
    grants = [said.payload.credit for said in node.heard()]
    assert sum(grants) > 1200 * KIB
    too_long = 256 * KIB + 1
    if form == "other":
        node.write(data(too_long))
    else:
        node.stream_data(1, bytes(too_long))
    reason = next(said for said in node.heard() if said.opcode == Opcode.REFUSAL).payload.reason
    assert reason == f"a stream payload of {too_long} bytes"
    assert len(visitor.got) == 800 * KIB


def test_data_after_the_end_is_answered_with_a_reset_and_the_connection_stays(
    served: tuple[MemoryRelay, RawNode, Visitor],
) -> None:
    _, node, visitor = served
    node.stream_data(1, b"the end")
    node.stream_say(Opcode.STREAM_END, 1)
    assert visitor.ended
    node.stream_data(1, b"no, it was not")
    reset = node.take(Opcode.STREAM_RESET)
    assert (reset.message.request_nonce, reset.payload.code) == (1, pb.RESET_ENDED)
    node.stream_data(1, b"still here")
    assert node.heard() == []
    assert visitor.got == b"the end"
    assert node.lost is None


def test_a_visitor_whose_node_speaks_after_its_end_is_cut_before_it_says_more(
    served: tuple[MemoryRelay, RawNode, Visitor],
) -> None:
    relay, node, visitor = served
    node.stream_say(Opcode.STREAM_END, 1)
    visitor.transport.write(b"one thing still")
    node.stream_data(1, b"no, it was not")
    visitor.transport.write(b"and another")
    relay.pump()
    assert isinstance(visitor.lost, ConnectionLost)
    assert visitor.got == b""
    assert node.lost is None


def test_frames_of_a_stream_that_is_gone_are_nothing(
    served: tuple[MemoryRelay, RawNode, Visitor],
) -> None:
    relay, node, visitor = served
    visitor.transport.abortConnection()
    relay.pump()
    node.take(Opcode.STREAM_RESET)
    node.write(data(5) + window(1))
    node.stream_say(Opcode.STREAM_END, 1)
    node.stream_say(Opcode.STREAM_RESET, 1, pb.StreamReset(code=pb.RESET_ABORTED))
    assert node.heard() == []
    assert node.lost is None


# ---------------------------------------------------------------------- mutated frames


def recorded(side: str) -> tuple[Scene, bytes]:
    """A session, and all bytes that this side sent after the handshake."""
    scene = Scene(kernel_bytes=1 << 22)
    end: Any = getattr(scene.main, side)
    before = end.sent_bytes
    sent = bytearray()
    take = end._take

    def noting() -> None:
        had = end.sent_bytes
        take()
        if end.sent_bytes > had:
            sent.extend(end.in_flight[-(end.sent_bytes - had) :])

    end._take = noting
    for number in range(4):
        visitor = scene.visit()
        visitor.transport.write(some(3000, number))
        if number % 2:
            visitor.transport.loseWriteConnection()
        scene.pump()
    visitor.transport.abortConnection()
    scene.pump()
    assert len(sent) == end.sent_bytes - before > 10_000
    return scene, bytes(sent)


def mutated(raw: bytes, random_source: random.Random) -> bytes:
    out = bytearray(raw)
    for _ in range(random_source.choice((1, 1, 2, 5, 40))):
        at = random_source.randrange(len(out))
        how = random_source.randrange(4)
        if how == 0:
            out[at] ^= 1 << random_source.randrange(8)
        elif how == 1:
            out[at] = random_source.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif how == 2:
            del out[at : at + random_source.randrange(1, 20)]
        else:
            out[at:at] = random_source.randbytes(random_source.randrange(1, 20))
    return bytes(out)


@pytest.mark.parametrize("side", ["client", "server"])
def test_mutated_frames_end_the_connection_at_most(side: str) -> None:
    """Whatever is raised inside comes out of `pump`: only declared errors are caught there."""
    _, raw = recorded(side)
    source = random.Random(20)
    for _ in range(MUTATIONS):
        scene = Scene(kernel_bytes=1 << 22)
        visitors = [scene.visit() for _ in range(4)]
        other = scene.relay.node(5)
        other.prove()
        end: Any = getattr(scene.main, side)
        end.queue += mutated(raw, source)
        scene.pump()
        scene.relay.pass_time(6)
        if not scene.main.server.connected:
            assert all(visitor.lost is not None for visitor in visitors)
        assert other.lost is None
        assert other.lease() > 0
