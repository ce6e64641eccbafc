"""A stop that nobody has to notice: what is under way finishes, and the node goes elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise, repeat
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory

from proxyservice.leases.lease import LeaseState
from proxyservice.node.dial import Server
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.node import Node
from proxyservice.node.streams import FactoryAcceptor
from proxyservice.server.drain import Drain
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from tests.leases.harness import outcome, store_thread
from tests.net.joined import Echo, LendingPair, Scene, Visitor
from tests.net.joined import _Endpoint as Endpoint
from tests.node.test_node import Scene as ScriptedScene
from tests.server.memory import ALL_FEATURES, NET, MemoryRelay, RawNode, RawVisitor

DRAINING_FEATURES = ALL_FEATURES | 1 << pb.FEATURE_DRAINING


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


@pytest.fixture(params=["ordinary transports", "lending transports"])
def relay(request: pytest.FixtureRequest) -> MemoryRelay:
    if request.param == "lending transports":
        return MemoryRelay(join=LendingPair)
    return MemoryRelay()


def drain(relay: MemoryRelay, seconds: float = 30.0) -> list[Any]:
    """Begin; what it fires with comes into the list."""
    fired = outcome(Drain(relay.clock, relay.factory, seconds).begin())
    relay.pump()
    return fired


def understanding(relay: MemoryRelay, seed: int = 1) -> RawNode:
    node = relay.node(seed)
    node.hello(features=DRAINING_FEATURES)
    node.say(Opcode.PROOF, node.proof(node.take(Opcode.CHALLENGE)))
    node.take(Opcode.WELCOME)
    return node


def part_a(relay: MemoryRelay) -> tuple[RawNode, int]:
    node = relay.node()
    node.say(Opcode.PROXY_REQUEST, pb.ProxyRequest())
    address = node.take(Opcode.PROXY_RESPONSE).payload.proxy_address
    return node, int(address.rpartition(":")[2])


def visit(relay: MemoryRelay, port: int) -> RawVisitor:
    visitor = relay.visit(port, Visitor())
    assert visitor is not None
    return visitor


def application_frame(payload: bytes) -> bytes:
    sender = pb.ID(net_key=b"v" * 32, address="tcp://127.0.0.1:9")
    return encode_message(NET, 1000, payload, sender=sender)


def test_nodes_hear_when_to_come_back_and_are_closed_when_nothing_is_under_way(
    relay: MemoryRelay,
) -> None:
    node = understanding(relay)
    port = node.lease("web")
    lease = relay.run.registry._table.at_port(port)
    silent = relay.node(2)  # has not said who it is
    fired = drain(relay, 30.0)
    said = node.take(Opcode.DRAINING).payload
    assert 1000 <= said.reconnect_in_ms <= 1100
    assert said.try_for_ms == 90_000
    assert [type(one.lost) for one in (node, silent)] == [ConnectionDone, ConnectionDone]
    assert fired == [None]
    assert relay.run.registry._table.at_port(port) is lease, "the lease is kept"
    assert lease.state is LeaseState.REMEMBERED
    assert relay.clock.getDelayedCalls() == [relay.run.registry._tick]


def test_without_nodes_it_is_over_at_once(relay: MemoryRelay) -> None:
    assert drain(relay) == [None]


def test_who_did_not_agree_to_hear_of_it_does_not(relay: MemoryRelay) -> None:
    newer, older = relay.node(1), part_a(relay)[0]
    newer.prove()
    newer.lease("web")
    assert drain(relay) == [None]
    assert newer.heard() == older.heard() == []
    assert newer.lost is not None
    assert older.lost is not None


def test_many_nodes_come_back_over_some_seconds() -> None:
    relay = MemoryRelay(range(20000, 20000 + 2000))
    nodes = [understanding(relay, 1000 + number) for number in range(300)]
    drain(relay)
    hints = [node.take(Opcode.DRAINING).payload.reconnect_in_ms for node in nodes]
    assert 1000 <= min(hints) < 1060
    assert 1240 < max(hints) <= 1300


# --------------------------------------------------------------------- streams


def test_a_stream_goes_on_to_its_end_and_then_the_node_is_closed(relay: MemoryRelay) -> None:
    node = understanding(relay)
    visitor = visit(relay, node.lease("web", mode=pb.MODE_STREAMS))
    node.take(Opcode.STREAM_OPEN)
    fired = drain(relay)
    node.take(Opcode.DRAINING)
    visitor.transport.write(b"question")
    relay.pump()
    assert node.take(Opcode.STREAM_DATA).payload == b"question"
    relay.pass_time(29)
    node.stream_data(1, b"answer")
    node.stream_say(Opcode.STREAM_END, 1)
    assert visitor.got == b"answer"
    assert node.lost is None
    assert fired == []
    visitor.transport.loseConnection()
    relay.pump()
    assert fired == [None]
    assert isinstance(node.lost, ConnectionDone)
    assert isinstance(visitor.lost, ConnectionDone)


def test_the_node_hears_how_its_last_stream_ended_however_slowly_it_reads() -> None:
    """The reset waits behind queued bytes; a close before that would leave the node to guess."""
    relay = MemoryRelay(join=LendingPair, kernel_bytes=1 << 10)
    node = understanding(relay)
    visitor = visit(relay, node.lease("web", mode=pb.MODE_STREAMS))
    node.heard()
    node.transport.pauseProducing()
    fired = drain(relay)
    for _ in range(5):
        visitor.transport.write(b"u" * 1000)
        relay.pump()
    visitor.transport.abortConnection()
    relay.pump()
    assert fired == []
    node.transport.resumeProducing()
    relay.pump()
    opcodes = [said.opcode for said in node.heard()]
    assert opcodes[0] == Opcode.DRAINING
    assert opcodes[-1] == Opcode.STREAM_RESET
    assert fired == [None]


def test_a_request_meanwhile_is_refused_and_says_for_how_long(relay: MemoryRelay) -> None:
    node = understanding(relay)
    visit(relay, node.lease("web", mode=pb.MODE_STREAMS))
    node.heard()
    drain(relay)
    node.take(Opcode.DRAINING)
    node.ask("other", nonce=7)
    refusal = node.take(Opcode.REFUSAL)
    assert refusal.message.request_nonce == 7
    assert refusal.payload.code == pb.REFUSAL_DRAINING
    assert refusal.payload.retry_after_ms >= 1000
    assert node.lost is None


def test_what_is_not_finished_in_time_is_left_to_be_cut(relay: MemoryRelay) -> None:
    node = understanding(relay)
    visitor = visit(relay, node.lease("web", mode=pb.MODE_STREAMS))
    fired = drain(relay, 5.0)
    relay.pass_time(4.75)
    assert fired == []
    relay.pass_time(0.25)
    assert fired == [None]
    (connection,) = relay.factory.connections
    connection.abort("the service stops")
    assert isinstance(visitor.lost, ConnectionLost), "a cut transfer never looks complete"


# -------------------------------------------------------------------- messages


def test_a_frame_that_is_under_way_is_relayed_whole_and_is_the_last() -> None:
    relay = MemoryRelay(join=LendingPair)
    node, port = part_a(relay)
    visitor, idle = visit(relay, port), visit(relay, port)
    first, second = application_frame(b"a" * 3000), application_frame(b"b" * 3000)
    visitor.transport.write(first[:1500])
    relay.pump()
    fired = drain(relay)
    assert isinstance(idle.lost, ConnectionDone), "nothing of it was under way"
    assert fired == []
    visitor.transport.write(first[1500:] + second)
    relay.pump()
    assert b"".join(said.raw for said in node.heard()) == first
    assert visitor.lost is not None
    assert fired == [None]
    assert node.lost is not None


def test_a_visitor_that_never_pauses_cannot_keep_the_service() -> None:
    relay = MemoryRelay(join=LendingPair)
    node, port = part_a(relay)
    visitor = visit(relay, port)
    frames = b"".join(application_frame(bytes([one]) * 1000) for one in range(40))
    visitor.transport.write(frames[:100])
    relay.pump()
    fired = outcome(Drain(relay.clock, relay.factory, 30.0).begin())
    visitor.transport.write(frames[100:])
    relay.pump()
    assert fired == [None]
    assert [said.payload for said in node.heard()] == [bytes(1000)]


def test_what_the_kernel_has_is_taken_first() -> None:
    relay = MemoryRelay(join=LendingPair)
    node, port = part_a(relay)
    visitor = visit(relay, port)
    frame = application_frame(b"a" * 100)
    visitor.transport.write(frame)
    assert drain(relay) == [None]
    assert b"".join(said.raw for said in node.heard()) == frame


# ------------------------------------------------------------- the node library


class TwoRelays:
    """A node with a stream lease that knows two relays, in this order."""

    def __init__(self) -> None:
        self.relays = [MemoryRelay(join=LendingPair, relay_id=bytes([n]) * 32) for n in (1, 2)]
        self.clock = self.relays[0].clock
        self.endpoints = [Endpoint(relay) for relay in self.relays]
        self.targets: list[Any] = []
        self.node = Node(
            [
                Server(f"relay{number}:6008", partial(next, repeat(endpoint)))
                for number, endpoint in enumerate(self.endpoints, 1)
            ],
            reactor=self.clock,
            identity=NodeIdentity(key=Ed25519PrivateKey.from_private_bytes(b"s" * 32)),
        )
        acceptor = FactoryAcceptor(Factory.forProtocol(Echo), self.clock)
        self.lease = self.node.lease("web", mode=pb.MODE_STREAMS, acceptor=acceptor)
        self.node.startService()
        self.pump()

    def pump(self, seconds: float = 0.0) -> None:
        """Of the first relay, the node and both pairs; the second's clock stands still."""
        for _ in range(1 + round(seconds / 0.05)):
            for relay in self.relays:
                relay.pump()
            self.clock.advance(0.05 if seconds else 0)
            self.relays[0].deadlines.tick(self.clock.seconds())
        for relay in self.relays:
            relay.pump()

    def visit(self, number: int) -> Visitor:
        assert self.lease.address is not None
        port = int(self.lease.address.rpartition(":")[2])
        visitor = self.relays[number].visit(port, Visitor())
        assert isinstance(visitor, Visitor)
        return visitor

    def says(self, visitor: Visitor, said: bytes) -> bytes:
        visitor.got = b""
        visitor.transport.write(said)
        self.pump()
        return visitor.got

    def connections(self) -> list[int]:
        return [len(relay.factory.connections) for relay in self.relays]

    def stop(self) -> None:
        stopped = outcome(self.node.stopService())
        self.pump()
        assert stopped == [None]
        assert self.connections() == [0, 0]
        assert self.clock.getDelayedCalls() == [self.relays[0].run.registry._tick]


def test_the_node_goes_to_its_next_relay_and_stays_where_streams_are_open() -> None:
    scene = TwoRelays()
    visitor = scene.visit(0)
    fired = drain(scene.relays[0])
    scene.pump(0.5)
    assert scene.connections() == [1, 1], "at once: the hint is the other relay's"
    assert scene.says(visitor, b"still there") == b"still there"
    newcomer = scene.visit(1)
    assert scene.says(newcomer, b"and here") == b"and here"
    visitor.transport.loseConnection()
    scene.pump(0.5)
    assert fired == [None]
    assert scene.connections() == [0, 1]
    assert scene.says(newcomer, b"and still here") == b"and still here"
    scene.pump(60)
    assert scene.connections() == [0, 1], "it is content with where it is"
    scene.stop()


def test_a_node_that_stops_meanwhile_closes_both_of_its_connections() -> None:
    scene = TwoRelays()
    scene.visit(0)
    drain(scene.relays[0])
    scene.pump(0.5)
    assert scene.connections() == [1, 1]
    scene.stop()


def test_a_refusal_on_the_draining_connection_is_not_the_new_ones() -> None:
    """Both have a request 1; the older one's lease is revoked while it drains."""
    scene = TwoRelays()
    scene.visit(0)
    drain(scene.relays[0])
    scene.pump(0.5)
    (old,) = scene.relays[0].factory.connections
    refusal = pb.Refusal(code=pb.REFUSAL_DENIED, reason="late")
    old.answer(Opcode.REFUSAL, refusal, scene.lease.request_nonce)
    scene.pump()
    assert scene.lease.granted
    assert scene.lease.error is None
    scene.stop()


def test_with_one_relay_the_node_comes_back_there_after_the_hint() -> None:
    scene = Scene()
    drain(scene.relay)
    assert len(scene.relay.factory.connections) == 0
    scene.relay.pass_time(0.75)
    assert len(scene.relay.factory.connections) == 0
    scene.relay.pass_time(0.5)
    assert len(scene.relay.factory.connections) == 1


def test_while_a_relay_restarts_it_is_asked_often_and_later_seldom() -> None:
    scene = ScriptedScene(legacy=False)
    server = scene.servers[0]
    server.script[Opcode.HELLO] = lambda connection, _: connection.say(
        Opcode.DRAINING, pb.Draining(reconnect_in_ms=3000, try_for_ms=60_000)
    )
    scene.node.startService()
    scene.run()
    server.up = False
    server.last.pair.server.loseConnection()
    began = scene.clock.seconds()
    scene.run(60)
    assert server.attempts[1] - began == pytest.approx(3.0, abs=0.11)
    gaps = [later - earlier for earlier, later in pairwise(server.attempts[1:])]
    assert max(gaps) <= 2.1
    assert len(gaps) >= 57 / 2.1
    del server.attempts[:]
    scene.run(300)
    assert len(server.attempts) < 60
