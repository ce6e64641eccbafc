"""What a peer sends is worked on in portions, and what it asks for waits within bounds."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.protocol import Protocol

from proxyservice.net.turns import OWN_UNITS, SHARED_UNITS, Turns
from proxyservice.server.limits import ServiceLimits
from proxyservice.server.main import CONTROL_READ_BYTES
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.relay_check import READ_BYTES
from proxyservice.wire.relay_rules import SERVER_NET_KEYS
from proxyservice.wire.work import FRAME_UNITS, GRANT_UNITS
from tests.attacks import work
from tests.attacks.kit import NET, application_frame, keepalive, proxy_request, sender
from tests.leases.harness import store_thread
from tests.net.test_turns import RunningClock
from tests.node import joined
from tests.server.memory import MemoryRelay, RawVisitor, cut
from tests.traced import traced_memory

A_TURN = (OWN_UNITS + SHARED_UNITS) // FRAME_UNITS + 1
STREAMS = 1 << pb.FEATURE_STREAMS

KINDS = (b"TCP", b"UDP", b"KCP", b"QUIC")


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


class Peer(Protocol):
    """A node of part A, made of bytes."""

    transport: Any
    lost = False

    def __init__(self) -> None:
        self.heard = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True

    def messages(self) -> list[pb.Message]:
        return [pb.Message.FromString(frame[10:]) for frame in cut(bytes(self.heard))]


class Turned:
    """A relay with turns, and one node on it."""

    def __init__(self, **settings: Any) -> None:
        self.relay = MemoryRelay(**settings)
        self.clock = RunningClock()
        self.turns = self.relay.factory.turns = Turns(self.clock)

    def peer(self, said: bytes = b"") -> Peer:
        peer = Peer()
        self.relay.connect(peer)
        if said:
            peer.transport.write(said)
            self.rest()
        return peer

    def rest(self) -> None:
        """Until nothing waits any more."""
        self.relay.pump()
        while self.turns.waiting:
            self.clock.turn()
            self.relay.pump()
        self.clock.turn()


def test_a_node_that_asks_a_lot_waits_and_the_others_do_not() -> None:
    turned = Turned()
    greedy, modest = turned.peer(proxy_request(1)), turned.peer(proxy_request(2))
    greedy.transport.write(keepalive(1) * 500)
    turned.relay.pump()
    answered = len(greedy.messages()) - 1
    assert answered <= A_TURN
    assert not greedy.transport.other.reading
    modest.transport.write(keepalive(2))
    turned.relay.pump()
    assert modest.messages()[-1].opcode == Opcode.KEEPALIVE_RESPONSE
    assert turned.relay.factory.memory.held_bytes > 0, "what waits is counted"
    while turned.turns.waiting:
        before = len(greedy.messages())
        turned.clock.turn()
        assert len(greedy.messages()) - before <= A_TURN
        turned.relay.pump()
    assert len(greedy.messages()) == 501, "all of it is answered in the end"
    assert turned.relay.factory.memory.held_bytes == 0


@pytest.mark.parametrize("name", [*work.MAIN_PORT])
def test_a_costly_input_costs_at_most_a_turn_at_a_time(name: str) -> None:
    """Nothing of what is sent leads to more work than a turn's, in units, for one read."""
    turned = Turned()
    first, again = work.MAIN_PORT[name](5)
    peer = turned.peer(first)
    most = SHARED_UNITS + OWN_UNITS
    for _ in range(40):
        if peer.lost or peer.transport.other.protocol.is_over:
            break
        if peer.transport.other.reading:
            peer.transport.write(
                (again * (1 + CONTROL_READ_BYTES // len(again)))[:CONTROL_READ_BYTES]
            )
        turned.relay.pump()
        assert turned.turns.left_units > -most, "what was done beyond the turn is one frame's work"
        turned.clock.turn()
    held = turned.relay.factory.memory.held_bytes
    inflating = turned.relay.settings.limits.inflated_frame_bytes
    assert held <= 2 * CONTROL_READ_BYTES + 32 * 1024 + 8 * 1024 + (1 << 16) + inflating


def test_a_long_key_is_refused_before_anything_keeps_it() -> None:
    turned = Turned()
    for key in (bytes(65), bytes(250 << 10)):
        who = pb.ID(net_key=key, address="tcp://h:1")
        for compressed in (False, True):
            said = encode_message(
                NET, Opcode.PROXY_REQUEST, pb.ProxyRequest(), sender=who,
                algorithm=2, compressed=compressed,
            )  # fmt: skip
            peer = turned.peer(said)
            turned.rest()
            assert peer.transport.other.protocol.closing
            assert not peer.heard
    assert turned.relay.run.registry.counts()["free"] == len(turned.relay.run.registry._ports)


def test_a_probe_before_identity_is_not_answered() -> None:
    turned = Turned()
    probe = encode_message(NET, Opcode.METRIC_REQUEST, pb.MetricRequest(), sender=sender(1))
    peer = turned.peer(probe)
    assert not peer.heard
    peer.transport.write(proxy_request(1) + probe)
    turned.rest()
    assert [one.opcode for one in peer.messages()] == [
        Opcode.PROXY_RESPONSE,
        Opcode.METRIC_RESPONSE,
    ]


def test_nobody_has_more_sent_back_than_came() -> None:
    turned = Turned()
    peer = turned.peer(proxy_request(1))
    before = len(peer.heard)
    for size in (4096, 60_000):
        probe = encode_message(
            NET, Opcode.METRIC_REQUEST, pb.MetricRequest(raw_data=bytes(size)),
            sender=sender(1), algorithm=2, compressed=True,
        )  # fmt: skip
        peer.transport.write(probe)
        turned.rest()
        assert len(peer.heard) == before
    plain = pb.MetricRequest(raw_data=bytes(4096))
    peer.transport.write(encode_message(NET, Opcode.METRIC_REQUEST, plain, sender=sender(1)))
    turned.rest()
    answer = pb.MetricResponse.FromString(peer.messages()[-1].message)
    assert answer.raw_data == plain.raw_data


@pytest.mark.parametrize("name", ["small_echoes", "requests_of_26_bytes"])
def test_answers_that_nobody_reads_are_counted_and_nothing_more_is_heard(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "HIGH_WATER_BYTES", 0)  # as a main connection's transport has it
    turned = Turned(kernel_bytes=4096)
    first, again = work.MAIN_PORT[name](5)
    peer = turned.peer(first)
    server = peer.transport.other
    peer.transport.pauseProducing()
    most = ServiceLimits().answers_high_bytes + 4096 + 200
    asked = again * (200_000 // len(again))
    peer.transport.write(asked)
    for _ in range(100):
        turned.relay.pump()
        turned.clock.turn()
        memory = turned.relay.factory.memory
        assert server.queued_bytes <= most
        assert memory.held_bytes >= server.queued_bytes, "counted where it is queued"
    assert not server.reading
    peer.transport.resumeProducing()
    turned.rest()
    assert memory.held_bytes == 0
    assert len(peer.messages()) == 1 + len(asked) // len(again), "none is lost"


@pytest.mark.parametrize("name", [*work.PROXY_PORT])
def test_what_a_visitor_sends_is_checked_in_portions(name: str) -> None:
    turned = Turned()
    node = turned.peer(proxy_request(1))
    port = turned.relay.run.registry._ports[0]
    before = len(node.heard)
    visitors = [turned.relay.visit(port), turned.relay.visit(port)]
    assert None not in visitors
    frame = work.PROXY_PORT[name](7)
    stream = (frame * (1 + 3 * READ_BYTES // len(frame)))[: max(3 * READ_BYTES, len(frame))]
    good: Any = visitors[1]
    for visitor in visitors[:1]:
        assert visitor is not None
        visitor.transport.write(stream)
    turned.relay.pump()
    good.transport.write(said := application_frame(b"good", 3))
    turned.rest()
    whole = len(stream) // len(frame) * len(frame)
    assert len(node.heard) - before >= whole - len(frame) + len(said)
    assert bytes(said) in bytes(node.heard)
    assert turned.relay.factory.memory.held_bytes <= 4 << 20


@pytest.mark.parametrize(
    "key", [b"PORTER_%b_NETKEY" % kind for kind in (b"TCP", b"UDP", b"KCP", b"QUIC")]
)
@pytest.mark.parametrize("usual", [False, True])
def test_no_visitor_says_it_is_the_relay(key: bytes, usual: bool) -> None:
    """Whichever of its names, also behind frames that are as usual (the short way)."""
    assert key in SERVER_NET_KEYS
    turned = Turned()
    node = turned.peer(proxy_request(1))
    port = turned.relay.run.registry._ports[0]
    before = bytes(node.heard)
    visitor = turned.relay.visit(port)
    assert isinstance(visitor, RawVisitor)
    good = application_frame(b"x", 3) * 3 if usual else b""
    who = pb.ID(net_key=key, address=sender(3).address, connection_id=sender(3).connection_id)
    visitor.transport.write(good + encode_message(NET, 1000, b"x", sender=who))
    turned.rest()
    assert bytes(node.heard) == before + good
    assert not visitor.transport.connected


def test_leases_are_asked_for_by_and_by() -> None:
    """Each is some 0.4 ms, ten times as much as a frame: a hundred in one read are many turns."""
    turned = Turned()
    first = encode_message(
        NET,
        Opcode.HELLO,
        pb.Hello(version=1, client_nonce=bytes(32), initial_window=1 << 18, features=STREAMS),
        sender=sender(1),
    )
    peer = turned.peer(first)
    asked = turned.relay.factory.port_queue.serve = Counted()
    peer.transport.write(
        b"".join(
            encode_message(
                NET,
                Opcode.PROXY_REQUEST,
                pb.ProxyRequest(origin_address=f"o{number}", mode=pb.MODE_STREAMS),
                sender=sender(1),
                request_nonce=number + 1,
            )
            for number in range(64)
        )
    )
    turned.relay.pump()
    most = (OWN_UNITS + SHARED_UNITS) // GRANT_UNITS + 1
    assert 0 < asked.count <= most, peer.messages()
    while turned.turns.waiting:
        before = asked.count
        turned.clock.turn()
        turned.relay.pump()
        assert asked.count - before <= most
    assert asked.count == 64


class Counted:
    """Something that is called, so often."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


def test_nothing_of_a_refused_body_waits_for_the_collector() -> None:
    """A body of 250 KiB in a KiB costs its connection, and no memory that nobody counts."""
    turned = Turned()
    peers = [turned.peer() for _ in range(8)]
    gc.collect()
    gc.disable()
    try:
        with traced_memory() as memory:
            for number, peer in enumerate(peers):
                peer.transport.write(work.long_keys(number)[1])
                turned.rest()
            assert all(peer.lost for peer in peers)
            assert memory.get_traced_memory()[0] < 256 << 10
    finally:
        gc.enable()
