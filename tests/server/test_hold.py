"""A node that is away for a moment is a pause: visitors wait, are served, or are turned away."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.error import ConnectionLost

from proxyservice.leases.lease import LeaseTimes
from proxyservice.node.keys import fingerprint
from proxyservice.server.access import Access
from proxyservice.server.limits import ServiceLimits
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.leases.harness import DISK_FULL, store_thread
from tests.net.joined import LendingPair
from tests.node.joined import Joined
from tests.node.processes import SCRIPTS, EchoServer, Program, Relay, visit
from tests.server.memory import MemoryRelay, RawNode, RawVisitor

HOLD_SECONDS = 10.0


@pytest.fixture(autouse=True)
def disk_thread() -> Iterator[Any]:
    with store_thread() as thread:
        yield thread


def held(join: type[Joined] = LendingPair, **options: Any) -> tuple[MemoryRelay, int]:
    """A relay, and the port of a stream lease whose node went away just now."""
    options.setdefault("times", LeaseTimes(hold=HOLD_SECONDS))
    relay = MemoryRelay(join=join, **options)
    node, port = streaming(relay)
    leave(relay, node)
    return relay, port


def streaming(relay: MemoryRelay, seed: int = 1, **options: Any) -> tuple[RawNode, int]:
    node = relay.node(seed)
    node.prove()
    return node, node.lease("web", mode=pb.MODE_STREAMS, **options)


def leave(relay: MemoryRelay, node: RawNode) -> None:
    node.transport.loseConnection()
    relay.pump()


def back(relay: MemoryRelay) -> RawNode:
    """The node asks for its lease again; what it hears is the caller's to look at."""
    node = relay.node(1)
    node.prove()
    node.ask("web", mode=pb.MODE_STREAMS)
    return node


def wait_at(relay: MemoryRelay, port: int) -> RawVisitor:
    visitor = relay.visit(port)
    assert visitor is not None
    return visitor


def is_reset(visitor: RawVisitor) -> bool:
    return isinstance(visitor.lost, ConnectionLost)


def pass_time(relay: MemoryRelay, seconds: float) -> None:
    relay.pass_time(seconds)
    relay.run.clock.advance(0)


@pytest.mark.parametrize("join", [Joined, LendingPair])
def test_who_comes_meanwhile_is_served_when_the_node_is_back(join: type[Joined]) -> None:
    relay, port = held(join)
    visitor = wait_at(relay, port)
    visitor.transport.write(b"question")
    relay.pass_time(HOLD_SECONDS - 2)
    assert visitor.lost is None
    assert bytes(visitor.transport.in_flight) == b"question", "it waits in the kernel, not here"
    node = back(relay)
    granted, opening, data = node.heard()
    assert granted.opcode == Opcode.PROXY_RESPONSE
    assert opening.payload.visitor_address == "192.0.2.9:40001"
    assert opening.payload.proxy_address == f"127.0.0.1:{port}"
    assert (data.opcode, data.payload) == (Opcode.STREAM_DATA, b"question")
    node.stream_data(1, b"answer")
    assert visitor.got == b"answer"
    assert relay.room.count == 0
    pass_time(relay, HOLD_SECONDS)
    assert visitor.lost is None, "it waits no more, so the hold does not end it"


def test_they_are_served_in_the_order_in_which_they_came() -> None:
    relay, port = held()
    for _ in range(3):
        wait_at(relay, port)
    _, *openings = back(relay).heard()
    addresses = [opening.payload.visitor_address for opening in openings]
    assert addresses == [f"192.0.2.9:{40000 + number}" for number in (1, 2, 3)]


def test_the_wait_ends_with_the_hold() -> None:
    relay, port = held()
    visitor = wait_at(relay, port)
    pass_time(relay, HOLD_SECONDS - 1)
    assert visitor.lost is None
    pass_time(relay, 2)
    assert is_reset(visitor)
    assert relay.room.count == 0
    assert port not in relay.run.sockets.bound
    assert relay.visit(port) is None


def test_a_visitor_that_comes_late_does_not_wait_longer() -> None:
    relay, port = held()
    pass_time(relay, HOLD_SECONDS - 1)
    visitor = wait_at(relay, port)
    pass_time(relay, 2)
    assert is_reset(visitor)


def test_at_most_so_many_wait_for_one_node_and_so_many_in_all() -> None:
    limits = ServiceLimits(waiting_per_lease=64, waiting_visitors=100)
    relay = MemoryRelay(times=LeaseTimes(hold=HOLD_SECONDS), limits=limits)
    ports = []
    for seed in (1, 2):
        node, port = streaming(relay, seed)
        leave(relay, node)
        ports.append(port)
    for port, most in zip(ports, (64, 36), strict=True):
        for _ in range(most):
            wait_at(relay, port)
        assert relay.visit(port) is None
    assert relay.room.count == 100
    pass_time(relay, HOLD_SECONDS + 1)
    assert relay.room.count == 0


def test_a_visitor_that_gives_up_makes_room() -> None:
    relay, port = held(limits=ServiceLimits(waiting_per_lease=1))
    visitor = wait_at(relay, port)
    assert relay.visit(port) is None
    visitor.transport.abortConnection()
    assert relay.room.count == 0
    wait_at(relay, port)


def test_messages_are_not_waited_for() -> None:
    relay = MemoryRelay(times=LeaseTimes(hold=HOLD_SECONDS))
    node = relay.node(1)
    node.prove()
    port = node.lease("web", mode=pb.MODE_MESSAGES)
    leave(relay, node)
    assert relay.visit(port) is None
    assert port not in relay.run.sockets.bound


def test_who_waits_is_turned_away_when_the_node_wants_messages() -> None:
    relay, port = held()
    visitor = wait_at(relay, port)
    node = relay.node(1)
    node.prove()
    assert node.lease("web", mode=pb.MODE_MESSAGES) == port
    assert is_reset(visitor)


def test_who_waits_is_turned_away_when_the_node_moves_to_another_port() -> None:
    relay, port = held()
    visitor = wait_at(relay, port)
    _, moved = streaming(relay, proxy_address=f":{port + 1}")
    assert moved == port + 1
    assert is_reset(visitor)


def test_who_waits_is_turned_away_when_the_lease_is_revoked() -> None:
    relay, port = held()
    visitor = wait_at(relay, port)
    assert relay.run.registry.revoke(lambda owner: owner.origin == "web") == 1
    assert is_reset(visitor)


def test_who_comes_while_the_grant_is_on_its_way_to_the_disk_waits_too(disk_thread: Any) -> None:
    relay, port = held()
    disk_thread.waits = True
    node = back(relay)
    visitor = wait_at(relay, port)
    assert node.heard() == []
    assert visitor.lost is None
    disk_thread.all_turns()
    relay.pump()
    assert [said.opcode for said in node.heard()] == [Opcode.PROXY_RESPONSE, Opcode.STREAM_OPEN]


def test_a_node_that_leaves_before_its_grant_is_stored_is_expected_back(disk_thread: Any) -> None:
    relay, port = held()
    visitor = wait_at(relay, port)
    disk_thread.waits = True
    leave(relay, back(relay))
    disk_thread.all_turns()
    assert visitor.lost is None
    disk_thread.waits = False
    assert [said.opcode for said in back(relay).heard()] == [
        Opcode.PROXY_RESPONSE,
        Opcode.STREAM_OPEN,
    ]


def test_a_node_that_gives_up_its_lease_before_it_is_stored_is_not_expected(
    disk_thread: Any,
) -> None:
    relay, port = held()
    visitor = wait_at(relay, port)
    disk_thread.waits = True
    node = back(relay)
    node.say(Opcode.RELEASE, pb.Release(origin_address="web"), 9)
    disk_thread.all_turns()
    assert is_reset(visitor)


def test_a_grant_that_cannot_be_stored_turns_away_who_came_for_it(disk_thread: Any) -> None:
    relay = MemoryRelay(times=LeaseTimes(hold=HOLD_SECONDS))
    disk_thread.waits = True
    node = relay.node(1)
    node.prove()
    node.ask("web", mode=pb.MODE_STREAMS)
    (port,) = relay.run.sockets.bound
    visitor = wait_at(relay, port)
    disk_thread.turn(DISK_FULL)
    relay.pump()
    assert node.refused()[0] == pb.REFUSAL_EXHAUSTED
    assert is_reset(visitor)


def test_without_a_hold_nobody_waits() -> None:
    relay = MemoryRelay(times=LeaseTimes(hold=0.0))
    node, port = streaming(relay)
    leave(relay, node)
    assert relay.visit(port) is None
    assert port not in relay.run.sockets.bound


def test_when_the_service_stops_nobody_waits() -> None:
    relay, port = held()
    visitor = wait_at(relay, port)
    relay.room.close()
    assert is_reset(visitor)
    assert relay.visit(port) is None


# ----------------------------------------------------------------- real processes


@pytest.fixture
def relay_of(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Any]:
    """Start a relay that holds for so long."""
    started: list[Relay] = []

    def start(hold: str) -> Relay:
        port, low = free_ports(2)
        relay = Relay(tmp_path / "relay", port, range(low, low + 1), "--hold", hold)
        started.append(relay)
        return relay

    yield start
    for relay in started:
        assert relay.end(signal.SIGTERM) == 0
        assert "Traceback" not in relay.stdout + relay.stderr


@pytest.fixture
def expose(tmp_path: Path) -> Iterator[Callable[[int, Relay], Program]]:
    """Start `proxyservice expose`, with the same key each time."""
    started: list[Program] = []

    def start(target: int, relay: Relay) -> Program:
        words = (SCRIPTS / "proxyservice", "expose", target, "--via", relay.via)
        state = str(tmp_path / "state")
        program = Program(tmp_path / f"expose-{len(started)}", *words, STATE_DIRECTORY=state)
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()
        assert "Traceback" not in program.stdout + program.stderr


def address_of(exposing: Program) -> str:
    return exposing.wait_for(r"exposed \S+ at (\S+)")[1]


def killed(exposing: Program, relay: Relay) -> None:
    """The node dies, and the relay has noticed."""
    exposing.kill()
    relay.wait_for(r"node gone from port .*")


@pytest.mark.heavy
@pytest.mark.process
def test_a_real_node_that_is_killed_and_started_again_is_a_pause(
    relay_of: Callable[[str], Relay], expose: Callable[[int, Relay], Program]
) -> None:
    relay = relay_of("30s")
    with EchoServer() as echo:
        exposing = expose(echo.port, relay)
        address = address_of(exposing)
        killed(exposing, relay)
        answers: list[bytes] = []
        said = [bytes([number]) * 300_000 for number in range(8)]
        visitors = [Thread(target=lambda s=s: answers.append(visit(address, s))) for s in said]
        for visitor in visitors:
            visitor.start()
        again = expose(echo.port, relay)
        assert address_of(again) == address
        for visitor in visitors:
            visitor.join(20)
        assert sorted(answers) == said


@pytest.mark.heavy
@pytest.mark.process
def test_who_waits_in_vain_sees_a_reset_and_the_sixty_fifth_at_once(
    relay_of: Callable[[str], Relay], expose: Callable[[int, Relay], Program]
) -> None:
    relay = relay_of("2s")
    exposing = expose(1, relay)
    host, _, port = address_of(exposing).rpartition(":")
    killed(exposing, relay)
    waiting = [socket.create_connection((host, int(port)), timeout=15) for _ in range(64)]
    with pytest.raises(ConnectionResetError):
        visit(f"{host}:{port}", b"")
    relay.wait_for("refused a visitor of port .*: its node is away .*")
    assert not select.select(waiting, [], [], 0)[0], "the others wait"
    for visitor in waiting:
        with pytest.raises(ConnectionResetError):
            visitor.recv(1)
        visitor.close()
    with pytest.raises(ConnectionRefusedError):
        visit(f"{host}:{port}", b"")


# ------------------------------------------------- the same rules as for those who are served

NEAR, FURTHER = "192.0.2.9", "198.51.100.7"


def denying(tmp_path: Path, text: str, **options: Any) -> tuple[MemoryRelay, int, Path]:
    """A relay with a policy, and the port of a node that is away."""
    path = tmp_path / "policy.toml"
    path.write_text(text)
    relay = MemoryRelay(join=LendingPair, times=LeaseTimes(hold=HOLD_SECONDS), **options)
    relay.factory.access = Access(None, path)
    relay.factory.watch_access()
    node, port = streaming(relay)
    leave(relay, node)
    return relay, port, path


def test_visitors_of_a_denied_network_never_have_a_place(tmp_path: Path) -> None:
    relay, port, _ = denying(tmp_path, '[default]\nvisitor_deny = ["192.0.2.0/24"]')
    assert [relay.visit(port, host=NEAR) for _ in range(70)] == [None] * 70
    assert relay.room.count == 0
    allowed = relay.visit(port, host=FURTHER)
    assert allowed is not None
    back(relay)
    assert allowed.lost is None


def test_the_entry_of_the_node_that_is_away_counts(tmp_path: Path) -> None:
    key = fingerprint(Ed25519PrivateKey.from_private_bytes((1).to_bytes(32, "big")))
    text = f'[keys."{key}"]\nvisitor_allow = ["198.51.100.0/24"]'
    relay, port, _ = denying(tmp_path, text)
    assert relay.visit(port, host=NEAR) is None
    assert relay.visit(port, host=FURTHER) is not None
    relay.room.callers.clear()  # as after a restart, when only the lease tells whose it is
    assert relay.visit(port, host=NEAR) is None
    assert relay.visit(port, host=FURTHER) is not None


def test_a_network_that_is_denied_meanwhile_is_turned_away(tmp_path: Path) -> None:
    relay, port, path = denying(tmp_path, "[default]\nleases = 4")
    visitors = {host: relay.visit(port, host=host) for host in (NEAR, FURTHER)}
    path.write_text('[default]\nvisitor_deny = ["192.0.2.0/24"]')
    relay.factory.access.reload()
    relay.factory.check_access()
    relay.pump()
    near, further = visitors[NEAR], visitors[FURTHER]
    assert near is not None
    assert further is not None
    assert (is_reset(near), further.lost) == (True, None)
    assert relay.room.count == 1


def test_rates_of_a_source_hold_while_the_node_is_away_and_count_once() -> None:
    limits = ServiceLimits(visitor_rate_per_source=1.0, visitor_burst_per_source=4.0)
    relay, port = held(limits=limits)
    waiting = [relay.visit(port) for _ in range(6)]
    assert [one is not None for one in waiting] == [True] * 4 + [False] * 2
    openings = back(relay).heard()[1:]
    assert len(openings) == 4, "who has waited was counted when it came"


def test_open_visitors_of_a_source_are_counted_while_they_wait() -> None:
    relay, port = held(limits=ServiceLimits(visitors_per_source=3))
    waiting = [relay.visit(port) for _ in range(4)]
    assert [one is not None for one in waiting] == [True] * 3 + [False]
    first = waiting[0]
    assert first is not None
    first.transport.abortConnection()
    relay.pump()
    assert relay.visit(port) is not None
    assert len(back(relay).heard()) == 1 + 3


def test_the_source_with_most_places_gives_one_up() -> None:
    relay, port = held(limits=ServiceLimits(waiting_per_lease=4))
    many = [wait_at(relay, port) for _ in range(4)]
    assert relay.visit(port) is None, "none of its own goes for one more of it"
    other = relay.visit(port, host=FURTHER)
    assert other is not None
    assert [is_reset(one) for one in many] == [False, False, False, True], "the latest goes"
    assert relay.visit(port, host=FURTHER) is not None
    assert relay.visit(port, host=FURTHER) is None, "two of each is fair"
    assert relay.room.count == 4
    back(relay)
    assert other.lost is None


def test_in_the_whole_room_too() -> None:
    relay, port = held(limits=ServiceLimits(waiting_visitors=4))
    many = [wait_at(relay, port) for _ in range(4)]
    assert relay.visit(port, host=FURTHER) is not None
    assert sum(map(is_reset, many)) == 1
