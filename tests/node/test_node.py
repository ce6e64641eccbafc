"""A node of part A against a scripted server, on a clock that the test holds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from proxyservice.errors import StartError
from proxyservice.node.events import NodeEvents
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.messages import Received
from proxyservice.node.node import Node
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, encode_frame
from proxyservice.wire.identity import connection_id, node_id
from tests.node.scripted import ScriptedConnection, ScriptedServer, run

VISITOR = pb.ID(net_key=b"v" * 32, address="tcp://127.0.0.1:9")


class Scene:
    """A clock, some servers, a node, and what its events said."""

    def __init__(self, count: int = 1, **node_options: Any) -> None:
        self.clock = Clock()
        self.servers = [ScriptedServer(f"relay{n}:6008") for n in range(count)]
        for server in self.servers:
            server.clock = self.clock
        self.told: list[tuple[Any, ...]] = []
        node_options.setdefault("legacy", True)
        self.node = Node(
            [server.as_server() for server in self.servers],
            reactor=self.clock,
            events=Telling(self.told),
            **node_options,
        )
        self.messages: list[Received] = []
        self.node.on_message(self.messages.append)

    def start(self) -> Scene:
        self.node.startService()
        self.run()
        return self

    def run(self, seconds: float = 0.0) -> None:
        run(self.clock, self.servers, seconds)

    def relay(self, *frames: bytes) -> None:
        """Bytes that a visitor sent."""
        for frame in frames:
            self.servers[0].last.transport.write(frame)
        self.run()


class Telling(NodeEvents):
    def __init__(self, told: list[tuple[Any, ...]]) -> None:
        self.told = told

    def disconnected(self, server: str, error: Any, retry_seconds: float) -> None:
        self.told.append(("disconnected", server, str(error), retry_seconds))

    def gave_up(self, error: Any) -> None:
        self.told.append(("gave up", str(error)))

    def addressed(self, lease: Any, *, changed: bool) -> None:
        self.told.append(("addressed", lease.address, changed))


def visitor_frame(opcode: int = 1000, payload: bytes = b"hi", **fields: Any) -> bytes:
    fields.setdefault("sender", VISITOR)
    return encode_message(DEFAULT_NETWORK_ID, opcode, payload, **fields)


def test_the_first_frame_is_a_proxy_request_of_part_a() -> None:
    identity = NodeIdentity(net_key=b"k" * 32, first_address="tcp://10.0.0.1:5")
    scene = Scene(identity=identity).start()
    (request,) = scene.servers[0].last.heard
    assert request == pb.Message(
        opcode=Opcode.PROXY_REQUEST,
        netID=DEFAULT_NETWORK_ID,
        message_nonce=1,
        sender=pb.ID(
            net_key=b"k" * 32,
            address="tcp://10.0.0.1:5",
            id=node_id(b"k" * 32),
            connection_id=connection_id(b"k" * 32, "tcp://10.0.0.1:5"),
        ),
    )


def test_the_address_is_told_and_becomes_the_senders() -> None:
    scene = Scene()
    early: list[str] = []
    scene.node.when_addressed().addCallback(early.append)
    scene.start()
    late: list[str] = []
    scene.node.when_addressed().addCallback(late.append)
    assert early == late == ["127.0.0.1:20000"]
    before = scene.servers[0].last.heard[0].sender
    scene.run(15.1)
    keepalive = scene.servers[0].last.heard[-1]
    assert keepalive.opcode == Opcode.KEEPALIVE
    assert keepalive.message_nonce == 2
    assert keepalive.sender.address == "tcp://127.0.0.1:20000"
    assert keepalive.sender.connection_id == before.connection_id


def test_keepalives_go_out_every_interval_and_answers_keep_the_connection() -> None:
    scene = Scene().start()
    scene.run(15 * 20 + 0.5)
    assert scene.servers[0].last.opcodes().count(Opcode.KEEPALIVE) == 20
    assert len(scene.servers[0].connections) == 1


def test_three_silent_intervals_end_the_connection_and_the_node_comes_back() -> None:
    scene = Scene().start()
    scene.servers[0].last.pair.black_hole = True
    scene.run(44.0)
    assert len(scene.servers[0].attempts) == 1
    scene.run(2.0)
    assert len(scene.servers[0].attempts) == 2
    assert scene.told[-2] == (
        "disconnected", "relay0:6008", "nothing heard for 45 seconds", 0.2,
    )  # fmt: skip
    assert scene.told[-1] == ("addressed", "127.0.0.1:20000", False)


def test_the_old_address_is_valid_until_another_is_granted() -> None:
    scene = Scene().start()
    changes: list[str] = []
    scene.node._leases.first(pb.MODE_MESSAGES).on_address(changes.append)  # type: ignore[union-attr]
    scene.servers[0].up = False
    scene.servers[0].last.transport.abortConnection()
    scene.run(3.0)
    now: list[str] = []
    scene.node.when_addressed().addCallback(now.append)
    assert now == ["127.0.0.1:20000"]
    scene.servers[0].up = True
    scene.servers[0].address = "127.0.0.1:20001"
    scene.run(21.0)
    assert changes == ["127.0.0.1:20001"]


def test_refused_connections_follow_the_schedule() -> None:
    scene = Scene()
    scene.servers[0].up = False
    scene.node.startService()
    scene.run(60.0)
    delays = [event[3] for event in scene.told]
    assert delays[:3] == [0.2, 0.2, 0.2]
    assert all(0 <= delay <= 20 for delay in delays[3:])
    attempts = scene.servers[0].attempts
    waits = [later - earlier for earlier, later in pairwise(attempts)]
    assert waits == pytest.approx(delays[: len(waits)], abs=0.06)  # the clock's step


def test_failover_goes_down_the_list_and_stays_where_it_worked() -> None:
    scene = Scene(3)
    scene.servers[0].up = False
    scene.start()
    scene.run(1.0)
    assert [len(server.connections) for server in scene.servers] == [0, 1, 0]
    scene.servers[1].last.transport.abortConnection()
    scene.run(1.0)
    assert [len(server.connections) for server in scene.servers] == [0, 2, 0]
    scene.servers[1].up = False
    scene.servers[1].last.transport.abortConnection()
    scene.run(3.0)
    assert [len(server.connections) for server in scene.servers] == [0, 2, 1]


def test_a_server_that_accepts_and_never_answers_is_left() -> None:
    scene = Scene(2)
    scene.servers[0].script.clear()
    scene.start()
    scene.run(9.0)
    assert not scene.servers[1].connections
    scene.run(2.0)
    assert len(scene.servers[1].connections) == 1
    assert "no answer within 10 seconds" in scene.told[0][2]


def test_visitors_messages_arrive_as_frozen_objects() -> None:
    scene = Scene().start()
    scene.relay(visitor_frame(1234, b"payload", request_nonce=7, message_nonce=8, reply=True))
    (message,) = scene.messages
    assert (message.opcode, message.payload, message.request_nonce) == (1234, b"payload", 7)
    assert (message.message_nonce, message.reply, message.signed) == (8, True, False)
    assert message.sender.net_key == b"v" * 32
    assert message.reply_address == "127.0.0.1:9"
    with pytest.raises(AttributeError):
        message.opcode = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(encode_frame(DEFAULT_NETWORK_ID, b"\xff" * 20), id="no message"),
        pytest.param(encode_frame(DEFAULT_NETWORK_ID, b"x", flag=1, algorithm=2), id="no gzip"),
        pytest.param(visitor_frame(0), id="opcode 0"),
        pytest.param(visitor_frame(Opcode.PROXY_RESPONSE), id="a forged address"),
        pytest.param(visitor_frame(Opcode.REFUSAL), id="a forged refusal"),
        pytest.param(visitor_frame(sender=pb.ID(net_key=b"v")), id="no address"),
        pytest.param(visitor_frame(signature=b"s" * 64), id="wrong signature"),
    ],
)
def test_what_a_visitor_breaks_is_dropped_and_nothing_else(frame: bytes) -> None:
    scene = Scene().start()
    scene.relay(frame, visitor_frame(payload=b"good"))
    assert [message.payload for message in scene.messages] == [b"good"]
    assert len(scene.servers[0].live()) == 1
    assert scene.node._dialler._connection.dropped_frames == 1  # type: ignore[union-attr]


def test_a_listener_that_fails_stops_nobody() -> None:
    scene = Scene()

    @scene.node.on_message
    def failing(message: Received) -> None:
        raise ZeroDivisionError

    again: list[Received] = []
    scene.node.on_message(again.append)
    scene.start()
    scene.relay(visitor_frame())
    assert len(scene.messages) == len(again) == 1
    assert len(scene.servers[0].live()) == 1


def test_stopping_closes_the_connection_and_all_timers() -> None:
    scene = Scene().start()
    stopped: list[None] = []
    scene.node.stopService().addCallback(stopped.append)
    scene.run(0.1)
    assert stopped == [None]
    assert not scene.servers[0].live()
    assert scene.clock.getDelayedCalls() == []


def test_stopping_between_two_attempts_leaves_no_timer() -> None:
    scene = Scene()
    scene.servers[0].up = False
    scene.start()
    stopped: list[None] = []
    scene.node.stopService().addCallback(stopped.append)
    assert stopped == [None]
    assert scene.clock.getDelayedCalls() == []


def test_a_stop_is_not_held_up_by_a_server_that_does_not_read() -> None:
    scene = Scene().start()
    stopped: list[None] = []
    scene.servers[0].last.pair.black_hole = True
    scene.node.stopService().addCallback(stopped.append)
    scene.run(0.9)
    assert not stopped
    scene.run(0.2)
    assert stopped == [None]


def test_a_node_can_be_started_again() -> None:
    scene = Scene().start()
    scene.node.stopService()
    scene.run(1.0)
    scene.start()
    assert len(scene.servers[0].live()) == 1


@pytest.mark.parametrize(
    "server", ["", "a:b", "a:0", "a:65536", "a:1:2", "[::1", "http://a", "a b"]
)
def test_a_server_that_cannot_be_read_is_refused_at_once(server: str) -> None:
    with pytest.raises(StartError):
        Node([server], reactor=Clock())


def test_one_lease_per_origin_address() -> None:
    scene = Scene()
    scene.node.lease("a")
    with pytest.raises(ValueError, match="already"):
        scene.node.lease("a")


def test_a_part_a_server_that_closes_for_want_of_a_port_is_asked_again() -> None:
    scene = Scene()

    def close(connection: ScriptedConnection, message: pb.Message) -> None:
        connection.transport.loseConnection()

    scene.servers[0].script[Opcode.PROXY_REQUEST] = close
    scene.start()
    scene.run(1.0)
    assert len(scene.servers[0].attempts) >= 3
    assert scene.node.error is None


class Unready(ScriptedServer):
    """Its first two connections break: one while it is dialled, one in its first moment."""

    def connect(self, factory: Any) -> Deferred[Any]:
        if not self.attempts:
            self.attempts.append(0.0)
            raise OSError("an endpoint that raises instead of failing")
        if len(self.attempts) == 1:
            factory = _Breaking(factory)
        return super().connect(factory)


class _Breaking(Factory):
    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def buildProtocol(self, addr: Any) -> Any:
        protocol: Any = self.whole.buildProtocol(addr)
        made = protocol.makeConnection

        def broken(transport: Any) -> None:
            transport.setTcpNoDelay = None  # what a socket that was reset already does: it fails
            made(transport)

        protocol.makeConnection = broken
        return protocol


def test_a_connection_that_cannot_begin_is_dialled_again() -> None:
    clock, server = Clock(), Unready()
    server.clock = clock
    node = Node([server.as_server()], reactor=clock, legacy=True)
    addressed = node.when_addressed()
    node.startService()
    run(clock, [server], 10.0)
    assert len(server.attempts) == 3
    assert len(server.live()) == 1
    assert addressed.called
