"""A relay that is broken, or lies: it costs a node nothing but that relay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyservice.errors import RefusedError
from proxyservice.node.dialler import LEAVING_CONNECTIONS
from proxyservice.node.identity import NodeIdentity
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.node.scripted import ScriptedConnection, grant
from tests.node.test_endpoint import challenge, welcome
from tests.node.test_node import Scene

Answer = Callable[[ScriptedConnection, pb.Message], None]


STEP_SECONDS = 5.0


class Silent:
    """An acceptor that takes every stream and says nothing."""

    def __init__(self) -> None:
        self.visits: list[Any] = []

    def accept(self, visit: Any, switch: Any, stream: Any) -> None:
        stream.local = self
        self.visits.append(visit)

    def stream_received(self, view: memoryview) -> None: ...

    def stream_ended(self) -> None: ...

    def stream_reset(self, code: int, reason: str) -> None: ...

    def stream_ready(self) -> None: ...

    def send_turn(self) -> None: ...


class Relays(Scene):
    """A node with a stream lease, and relays of which the first does what a test wants."""

    def __init__(self, count: int = 2, **options: Any) -> None:
        key = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
        super().__init__(count, legacy=False, identity=NodeIdentity(key=key), **options)
        for server in self.servers:
            server.script |= {Opcode.HELLO: challenge, Opcode.PROOF: welcome}
        self.acceptor = Silent()
        self.lease = self.node.lease("web", mode=pb.MODE_STREAMS, acceptor=self.acceptor)

    def bad(self, opcode: int, answer: Answer) -> Relays:
        """The first relay answers this so."""
        self.servers[0].script[opcode] = answer
        self.start()
        return self

    def opens(self) -> list[int]:
        """How many connections each relay has that are not over."""
        return [len(server.live()) for server in self.servers]

    def stop(self) -> None:
        self.node.stopService()
        self.run(1.1)
        assert self.opens() == [0] * len(self.servers)
        assert self.clock.getDelayedCalls() == []


def refuse(code: int, reason: str = "", retry_after_ms: int = 0, *, lease: bool = True) -> Answer:
    def answer(connection: ScriptedConnection, message: pb.Message) -> None:
        refusal = pb.Refusal(code=code, reason=reason, retry_after_ms=retry_after_ms)  # type: ignore[arg-type]
        connection.say(Opcode.REFUSAL, refusal, message.request_nonce if lease else 0)

    return answer


def open_stream(visitor: str, proxy: str = "127.0.0.1:20000") -> Answer:
    def answer(connection: ScriptedConnection, message: pb.Message) -> None:
        grant(connection, message)
        opening = pb.StreamOpen(
            visitor_address=visitor,
            proxy_address=proxy,
            origin_address="web",
            initial_window=1000,
            server_window=1000,
        )
        connection.say(Opcode.STREAM_OPEN, opening, 1)

    return answer


def garbage(opcode: int, payload: bytes = b"\xff" * 9, nonce: int = 0) -> Answer:
    return lambda connection, _: connection.say(opcode, payload, nonce)


def granted_at(address: str) -> Answer:
    def answer(connection: ScriptedConnection, message: pb.Message) -> None:
        response = pb.ProxyResponse(origin_address="web", proxy_address=address)
        connection.say(Opcode.PROXY_RESPONSE, response, message.request_nonce)

    return answer


BROKEN: list[tuple[str, int, Answer]] = [
    ("a visitor without a port", Opcode.PROXY_REQUEST, open_stream("nobody")),
    ("a visitor of nowhere", Opcode.PROXY_REQUEST, open_stream("")),
    ("a proxy address that is none", Opcode.PROXY_REQUEST, open_stream("127.0.0.1:9", "here")),
    ("a visitor at a port that is none", Opcode.PROXY_REQUEST, open_stream("127.0.0.1:99999")),
    ("an unreadable StreamOpen", Opcode.PROXY_REQUEST, garbage(Opcode.STREAM_OPEN, nonce=1)),
    ("a grant of nothing", Opcode.PROXY_REQUEST, granted_at("")),
    ("a grant of a riddle", Opcode.PROXY_REQUEST, granted_at("a:1\nexposed 22 at b:2")),
    ("a grant of a novel", Opcode.PROXY_REQUEST, granted_at("a" * 40_000 + ":1")),
    ("an unreadable grant", Opcode.PROXY_REQUEST, garbage(Opcode.PROXY_RESPONSE, nonce=1)),
    ("an answer of another kind", Opcode.PROXY_REQUEST, garbage(Opcode.RELEASE, b"", nonce=1)),
    ("an unreadable Challenge", Opcode.HELLO, garbage(Opcode.CHALLENGE)),
    ("a Challenge of another version", Opcode.HELLO, garbage(Opcode.CHALLENGE, b"\x08\x63")),
    ("a Welcome out of order", Opcode.HELLO, garbage(Opcode.WELCOME, b"")),
    ("an unreadable Welcome", Opcode.PROOF, garbage(Opcode.WELCOME)),
    ("an unreadable Draining", Opcode.PROOF, garbage(Opcode.DRAINING)),
    ("an unreadable Refusal", Opcode.PROXY_REQUEST, garbage(Opcode.REFUSAL)),
    ("data of a stream that is none", Opcode.PROXY_REQUEST, garbage(Opcode.STREAM_WINDOW, b"", 7)),
]


@pytest.mark.parametrize(
    ("opcode", "answer"), [row[1:] for row in BROKEN], ids=[r[0] for r in BROKEN]
)
def test_what_breaks_the_protocol_ends_that_connection_and_the_next_is_asked(
    opcode: int, answer: Answer
) -> None:
    scene = Relays().bad(opcode, answer)
    scene.run(1.0)
    assert scene.opens() == [0, 1]
    assert scene.lease.granted
    scene.stop()


PART_B = [int(opcode) for opcode in Opcode if opcode in range(32, 64)]
FRAMES = st.lists(
    st.tuples(
        st.sampled_from([*PART_B, Opcode.PROXY_RESPONSE, Opcode.KEEPALIVE_RESPONSE, 63, 1000]),
        st.binary(max_size=40)
        | st.builds(
            lambda *fields: pb.StreamOpen(
                visitor_address=fields[0], origin_address="web", initial_window=fields[1]
            ).SerializeToString(),
            st.text(max_size=20),
            st.integers(0, 2**32 - 1),
        ),
        st.integers(0, 4) | st.integers(0, 2**64 - 1),
    ),
    max_size=8,
)


@pytest.mark.heavy
@settings(deadline=None, max_examples=60)
@given(st.sampled_from([Opcode.HELLO, Opcode.PROOF, Opcode.PROXY_REQUEST]), FRAMES)
def test_whatever_a_relay_says_the_node_is_served_in_the_end(
    when: int, frames: list[tuple[int, bytes, int]]
) -> None:
    scene = Relays()
    given_answer = scene.servers[0].script[when]

    def answer(connection: ScriptedConnection, message: pb.Message) -> None:
        given_answer(connection, message)
        for frame in frames:
            connection.say(*frame)

    scene.bad(when, answer)
    scene.servers[0].script[when] = given_answer
    run_slowly(scene, 3700.0)
    assert scene.lease.granted or scene.lease.error is not None
    assert sum(scene.opens()) >= 1 or scene.node.error is not None
    scene.node.stopService()
    scene.run(1.1)
    assert scene.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    "place",
    ["_welcome", "_answer", "_challenge", "_stream_open", "_refusal", "_drain"],
)
def test_a_mistake_of_ours_in_reading_a_frame_silences_nobody(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an unhandled exception it would only be logged, and nobody would dial again."""
    from proxyservice.node import connection

    opcode = {
        "_welcome": Opcode.WELCOME,
        "_answer": Opcode.PROXY_RESPONSE,
        "_challenge": Opcode.CHALLENGE,
        "_stream_open": Opcode.STREAM_OPEN,
        "_refusal": Opcode.REFUSAL,
        "_drain": Opcode.DRAINING,
    }[place]

    def mistaken(at: Any, message: Any, frame: Any) -> None:
        if at.server == "relay0:6008":
            raise ZeroDivisionError
        getattr(connection.NodeConnection, place)(at, message, frame)

    monkeypatch.setitem(connection._METHODS, opcode, mistaken)
    scene = Relays()
    asked = {
        "_stream_open": open_stream("127.0.0.1:9"),
        "_refusal": refuse(pb.REFUSAL_EXHAUSTED),
        "_drain": garbage(Opcode.DRAINING, b""),
    }
    scene.servers[0].script[Opcode.PROXY_REQUEST] = asked.get(place, grant)
    scene.start()
    scene.run(1.0)
    assert scene.opens() == [0, 1]
    assert scene.lease.granted
    (lost,) = [event for event in scene.told if event[0] == "disconnected"][:1]
    assert "ZeroDivisionError" in lost[2]
    scene.stop()


def test_a_mistake_at_the_end_of_a_connection_silences_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from proxyservice.net.stream_switch import StreamSwitch

    def mistaken(switch: StreamSwitch, reason: str) -> None:
        raise ZeroDivisionError

    scene = Relays(1)
    scene.start()
    monkeypatch.setattr(StreamSwitch, "lost", mistaken)
    scene.servers[0].last.transport.abortConnection()
    scene.run(1.0)
    assert len(scene.servers[0].connections) == 2
    assert scene.lease.granted


HINTS = [
    refuse(pb.REFUSAL_EXHAUSTED, "full", 2**62),
    refuse(pb.REFUSAL_EXHAUSTED, "full", 3 * 3600_000),
    refuse(pb.REFUSAL_QUOTA, "enough", 2**64 - 1),
    refuse(pb.REFUSAL_DENIED, "you not"),
    refuse(pb.REFUSAL_EXHAUSTED, "full", 2**62, lease=False),
    lambda connection, _: connection.say(
        Opcode.DRAINING, pb.Draining(reconnect_in_ms=2**62, try_for_ms=24 * 3600 * 1000)
    ),
]


@pytest.mark.parametrize("answer", HINTS)
def test_a_hint_binds_its_own_relay_and_for_an_hour_at_most(answer: Answer) -> None:
    scene = Relays().bad(Opcode.PROXY_REQUEST, answer)
    scene.run(1.0)
    assert scene.lease.granted, "the other is asked now"
    scene.stop()
    scene = Relays(1).bad(Opcode.PROXY_REQUEST, answer)
    scene.run(1.0)
    assert scene.told[-1][0] == "disconnected"
    assert scene.told[-1][3] <= 3600.0
    scene.servers[0].script[Opcode.PROXY_REQUEST] = grant
    run_slowly(scene, 3700.0)
    assert scene.lease.granted


def run_slowly(scene: Scene, seconds: float) -> None:
    """Hours, in steps that no keepalive is too short for."""
    for _ in range(round(seconds / STEP_SECONDS)):
        scene.clock.advance(STEP_SECONDS)
        for connection in [one for server in scene.servers for one in server.connections[-3:]]:
            connection.pair.pump()


@pytest.mark.parametrize(("keepalive_ms", "most"), [(1, 41), (24 * 3600 * 1000, 0)])
def test_a_keepalive_that_makes_no_sense_is_none(keepalive_ms: int, most: int) -> None:
    scene = Relays(1)
    features = 1 << pb.FEATURE_STREAMS
    scene.servers[0].script[Opcode.PROOF] = lambda connection, _: connection.say(
        Opcode.WELCOME, pb.Welcome(features=features, proved=True, keepalive_ms=keepalive_ms)
    )
    scene.start()
    scene.run(41.0)
    assert scene.servers[0].last.opcodes().count(Opcode.KEEPALIVE) in (most, most - 1)
    assert len(scene.servers[0].connections) == 1
    run_slowly(scene, 3600.0)
    assert sum(one.opcodes().count(Opcode.KEEPALIVE) for one in scene.servers[0].connections)


def test_a_relay_that_stops_again_and_again_has_a_few_connections_and_no_more() -> None:
    def drains(connection: ScriptedConnection, message: pb.Message) -> None:
        grant(connection, message)
        connection.say(Opcode.DRAINING, pb.Draining(reconnect_in_ms=0, try_for_ms=24 * 3600 * 1000))

    scene = Relays(1).bad(Opcode.PROXY_REQUEST, drains)
    most = 0
    for _ in range(60):
        scene.run(1.0)
        most = max(most, *scene.opens())
    assert len(scene.servers[0].connections) > 25
    assert most <= LEAVING_CONNECTIONS + 2, "one is new, and one is being closed"
    scene.stop()


def test_a_reason_of_any_size_is_a_sentence() -> None:
    scene = Relays(1).bad(Opcode.PROXY_REQUEST, refuse(pb.REFUSAL_EXHAUSTED, "no\x1b[2J" * 5000))
    scene.run(0.1)
    assert len(scene.told[0][2]) <= 200
    assert scene.told[0][2].isprintable()


# --------------------------------------------------------------------- finality


@pytest.mark.parametrize(
    ("code", "first_seconds", "longest_seconds"),
    [
        (pb.REFUSAL_DENIED, 60, 3600),
        (pb.REFUSAL_QUOTA, 60, 3600),
        (pb.REFUSAL_EXHAUSTED, 2, 300),
        (pb.REFUSAL_ADDRESS_UNAVAILABLE, 2, 300),
    ],
)
@pytest.mark.parametrize("lease", [True, False])
def test_what_somebody_may_mend_is_asked_for_again_for_ever(
    code: int, first_seconds: float, longest_seconds: float, lease: bool
) -> None:
    scene = Relays(1).bad(Opcode.PROXY_REQUEST, refuse(code, "not now", lease=lease))
    run_slowly(scene, 8 * 3600)
    delays = [event[3] for event in scene.told]
    assert first_seconds <= delays[0] <= 1.25 * first_seconds
    assert delays[-1] == longest_seconds
    assert scene.node.error is None
    assert {event[2] for event in scene.told} == {"not now"}
    scene.servers[0].script[Opcode.PROXY_REQUEST] = grant
    run_slowly(scene, longest_seconds + STEP_SECONDS)
    assert scene.lease.granted


@pytest.mark.parametrize(
    "code", [pb.REFUSAL_MALFORMED, pb.REFUSAL_UNSUPPORTED, pb.REFUSAL_UNAUTHENTICATED]
)
def test_what_is_final_is_so_for_that_relay(code: int) -> None:
    scene = Relays().bad(Opcode.PROXY_REQUEST, refuse(code, "never"))
    scene.run(1.0)
    assert scene.lease.granted
    scene.servers[1].up = False
    scene.servers[1].last.transport.abortConnection()
    run_slowly(scene, 7200.0)
    assert len(scene.servers[0].connections) == 1, "it is not asked again"
    assert scene.node.error is None
    scene.stop()
    scene = Relays(1).bad(Opcode.PROXY_REQUEST, refuse(code, "never"))
    scene.run(1.0)
    assert isinstance(scene.node.error, RefusedError)
    assert scene.told[-1] == ("gave up", "never")
    assert scene.lease.error is scene.node.error


def welcome_without_streams(connection: ScriptedConnection, message: pb.Message) -> None:
    connection.say(Opcode.WELCOME, pb.Welcome(proved=True))


@pytest.mark.parametrize(
    ("opcode", "answer"),
    [
        (Opcode.PROOF, welcome_without_streams),
        (Opcode.PROXY_REQUEST, refuse(pb.REFUSAL_MALFORMED, "never", lease=False)),
        (Opcode.PROXY_REQUEST, refuse(pb.REFUSAL_MALFORMED, "never")),
    ],
    ids=["it carries no streams", "it refuses the node", "it refuses each lease"],
)
def test_a_relay_of_no_use_takes_no_lease_along(opcode: int, answer: Answer) -> None:
    """Several leases are asked for by then: its refusal is final there, and there alone."""
    scene = Relays()
    others = [scene.node.lease(name, mode=pb.MODE_STREAMS, acceptor=Silent()) for name in "xy"]
    scene.bad(opcode, answer)
    scene.run(1.0)
    assert scene.opens() == [0, 1]
    assert [one.granted for one in (scene.lease, *others)] == [True] * 3
    scene.stop()


def test_a_lease_that_is_malformed_among_others_is_refused_whatever_its_place() -> None:
    for bad in ("web", "x"):
        scene = Relays(1)
        other = scene.node.lease("x", mode=pb.MODE_STREAMS, acceptor=Silent())

        def answer(connection: ScriptedConnection, message: pb.Message, bad: str = bad) -> None:
            request = pb.ProxyRequest.FromString(message.message)
            never = refuse(pb.REFUSAL_MALFORMED, "never")
            (never if request.origin_address == bad else grant)(connection, message)

        scene.bad(Opcode.PROXY_REQUEST, answer)
        assert [scene.lease.granted, other.granted] == [bad != "web", bad != "x"]
        assert (scene.lease if bad == "web" else other).error is not None
        scene.stop()


def test_a_relay_that_takes_the_last_lease_back_for_good_is_left() -> None:
    scene = Relays()
    scene.start()
    refusal = pb.Refusal(code=pb.REFUSAL_MALFORMED, reason="never was")
    scene.servers[0].last.say(Opcode.REFUSAL, refusal, scene.lease.request_nonce)
    scene.run(1.0)
    assert scene.opens() == [0, 1]
    assert scene.lease.granted
    scene.stop()


def test_a_lease_that_waits_leaves_no_timer_behind() -> None:
    """The relay asked for an hour; the node, or the connection, ends before that."""
    scene = Relays(1)
    other = scene.node.lease("ssh", mode=pb.MODE_STREAMS, acceptor=Silent())

    def denies_ssh(connection: ScriptedConnection, message: pb.Message) -> None:
        request = pb.ProxyRequest.FromString(message.message)
        denial = refuse(pb.REFUSAL_DENIED, "not ssh", 3600_000)
        (denial if request.origin_address == "ssh" else grant)(connection, message)

    scene.bad(Opcode.PROXY_REQUEST, denies_ssh)
    for _ in range(3):
        scene.servers[0].last.transport.abortConnection()
        scene.run(25.0)
    waiting = [call for call in scene.clock.getDelayedCalls() if call.getTime() > 1000.0]
    assert len(waiting) == 1, "the present connection's"
    scene.node.release(other)
    assert [call for call in scene.clock.getDelayedCalls() if call.getTime() > 1000.0] == []
    scene.stop()


def test_one_lease_that_is_denied_leaves_the_others_alone() -> None:
    scene = Relays(1)
    other = scene.node.lease("ssh", mode=pb.MODE_STREAMS, acceptor=Silent())

    def denies_web(connection: ScriptedConnection, message: pb.Message) -> None:
        request = pb.ProxyRequest.FromString(message.message)
        answer = refuse(pb.REFUSAL_DENIED, "not web") if request.origin_address == "web" else grant
        answer(connection, message)

    scene.bad(Opcode.PROXY_REQUEST, denies_web)
    assert other.granted, "though the other was refused first"
    assert not scene.lease.granted
    run_slowly(scene, 80.0)
    assert asked_for(scene, "web") == 2
    scene.servers[0].script[Opcode.PROXY_REQUEST] = grant
    run_slowly(scene, 200.0)
    assert scene.lease.granted
    assert asked_for(scene, "ssh") == 1
    assert len(scene.servers[0].connections) == 1


def asked_for(scene: Relays, origin: str) -> int:
    requests = [
        pb.ProxyRequest.FromString(message.message)
        for message in scene.servers[0].last.heard
        if message.opcode == Opcode.PROXY_REQUEST
    ]
    return [request.origin_address for request in requests].count(origin)


def test_a_lease_that_the_operator_ends_is_asked_for_again_later() -> None:
    scene = Relays(1)
    scene.start()
    nonce = scene.lease.request_nonce
    refusal = pb.Refusal(code=pb.REFUSAL_DENIED, reason="ended by the operator")
    scene.servers[0].last.say(Opcode.REFUSAL, refusal, nonce)
    scene.run(1.0)
    assert not scene.lease.granted
    run_slowly(scene, 80.0)
    assert scene.lease.granted
    assert len(scene.servers[0].connections) == 2
    assert asked_for(scene, "web") == 1, "once on each"


def test_a_relay_that_takes_all_leases_back_for_an_hour_is_left_for_the_next() -> None:
    scene = Relays(2)
    scene.start()
    refusal = pb.Refusal(code=pb.REFUSAL_QUOTA, reason="full", retry_after_ms=3_600_000)
    scene.servers[0].last.say(Opcode.REFUSAL, refusal, scene.lease.request_nonce)
    scene.run(3.0)
    assert scene.opens() == [0, 1]
    assert scene.lease.granted
    scene.stop()


def given_up(code: int, count: int = 1, **options: Any) -> Relays:
    scene = Relays(count, impatient=True, **options)
    for server in scene.servers:
        server.script[Opcode.PROXY_REQUEST] = refuse(code, "you not")
    scene.start()
    scene.run(2.0)
    return scene


@pytest.mark.parametrize("code", [pb.REFUSAL_DENIED, pb.REFUSAL_QUOTA, pb.REFUSAL_EXHAUSTED])
def test_an_impatient_node_gives_up_when_no_relay_has_ever_served_it(code: int) -> None:
    scene = given_up(code, 2)
    assert [len(server.connections) for server in scene.servers] == [1, 1], "each was asked"
    assert scene.told[-1] == ("gave up", "you not")


def test_an_impatient_node_waits_for_what_comes_by_itself() -> None:
    scene = Relays(1, impatient=True)
    scene.servers[0].up = False
    scene.start()
    run_slowly(scene, 600.0)
    assert scene.node.error is None
    scene.servers[0].up = True
    run_slowly(scene, 25.0)
    assert scene.lease.granted


def test_a_node_that_had_a_lease_has_all_the_time_there_is() -> None:
    scene = Relays(2, impatient=True)
    scene.servers[0].script[Opcode.PROXY_REQUEST] = refuse(pb.REFUSAL_DENIED, "not yet")
    scene.start()
    scene.run(1.0)
    assert scene.lease.granted
    scene.servers[1].script[Opcode.PROXY_REQUEST] = refuse(pb.REFUSAL_DENIED, "no more")
    scene.servers[1].last.transport.abortConnection()
    run_slowly(scene, 600.0)
    assert scene.node.error is None
    scene.servers[0].script[Opcode.PROXY_REQUEST] = grant
    run_slowly(scene, 3605.0)
    assert scene.lease.granted, "and the one that was passed over is asked again"


def test_an_endpoint_that_raises_is_a_relay_that_cannot_be_reached() -> None:
    scene = Relays()
    scene.servers[0].connect = lambda factory: 1 / 0  # type: ignore[method-assign,assignment]
    scene.start()
    scene.run(1.0)
    assert scene.lease.granted
    assert "division" in scene.told[0][2]
