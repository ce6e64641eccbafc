"""A message node that is away for a moment loses no visitor: its peers are not to notice."""

from __future__ import annotations

import array
import fcntl
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost

from proxyservice.leases.lease import LeaseTimes
from proxyservice.server.limits import ServiceLimits
from proxyservice.server.main import MainConnection
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import application_frame, keepalive, proxy_request, receive_message
from tests.leases.harness import DISK_FULL, store_thread
from tests.net.joined import LendingPair
from tests.node.joined import Joined
from tests.node.processes import Relay
from tests.server.memory import MemoryRelay, RawNode, RawVisitor

HOLD_SECONDS = 25.0
FRAME = application_frame(b"x" * 2000)


@pytest.fixture(autouse=True)
def disk_thread() -> Iterator[Any]:
    with store_thread() as thread:
        yield thread


def with_messages(relay: MemoryRelay, seed: int = 1) -> tuple[RawNode, int]:
    """A node of part B with a message lease."""
    node = relay.node(seed)
    node.prove()
    node.ask("mesh", mode=pb.MODE_MESSAGES)
    return node, granted(node)


def claimed(relay: MemoryRelay, **options: Any) -> tuple[RawNode, int]:
    """A deployed node: it proves nothing, and asks once."""
    node = relay.node(7, **options)
    node.say(Opcode.PROXY_REQUEST)
    return node, granted(node)


EARLY: dict[RawNode, list[bytes]] = {}
"""Frames of visitors that came right behind the answer."""


def granted(node: RawNode) -> int:
    answer, *others = node.heard()
    assert answer.opcode == Opcode.PROXY_RESPONSE
    EARLY[node] = [said.raw for said in others]
    return int(answer.payload.proxy_address.rpartition(":")[2])


def relay_of(join: type[Joined] = LendingPair, **options: Any) -> MemoryRelay:
    options.setdefault("times", LeaseTimes(hold_messages=HOLD_SECONDS))
    return MemoryRelay(join=join, **options)


def leave(relay: MemoryRelay, node: RawNode) -> None:
    node.transport.loseConnection()
    relay.pump()


def visit(relay: MemoryRelay, port: int) -> RawVisitor:
    visitor = relay.visit(port)
    assert visitor is not None
    return visitor


def say(relay: MemoryRelay, visitor: RawVisitor, data: bytes) -> None:
    visitor.transport.write(data)
    relay.pump()


def is_reset(visitor: RawVisitor) -> bool:
    return isinstance(visitor.lost, ConnectionLost)


def pass_time(relay: MemoryRelay, seconds: float) -> None:
    relay.pass_time(seconds)
    relay.run.clock.advance(0)


def relayed(node: RawNode) -> list[bytes]:
    """Whole frames of visitors since the last time."""
    return EARLY.pop(node, []) + [said.raw for said in node.heard()]


@pytest.mark.parametrize("kind", [with_messages, claimed])
@pytest.mark.parametrize("join", [Joined, LendingPair])
def test_who_was_there_and_who_comes_meanwhile_are_served_when_the_node_is_back(
    join: type[Joined], kind: Any
) -> None:
    relay = relay_of(join)
    node, port = kind(relay)
    before = visit(relay, port)
    say(relay, before, FRAME)
    assert relayed(node) == [FRAME]
    leave(relay, node)
    meanwhile = visit(relay, port)
    say(relay, before, FRAME)
    say(relay, meanwhile, FRAME)
    pass_time(relay, HOLD_SECONDS - 2)
    assert before.lost is meanwhile.lost is None
    assert bytes(meanwhile.transport.in_flight) == FRAME, "it waits in the kernel, not here"
    assert relay.room.count == 2
    back, again = kind(relay)
    assert again == port
    assert relayed(back) == [FRAME, FRAME]
    assert relay.room.count == 0
    pass_time(relay, HOLD_SECONDS + 2)
    say(relay, before, FRAME)
    assert relayed(back) == [FRAME], "they wait no more, so the hold does not end them"


@pytest.mark.parametrize("join", [Joined, LendingPair])
@pytest.mark.parametrize("cut", [1, 10, 11, 1000, len(FRAME) - 1])
def test_a_frame_that_had_begun_is_completed_on_the_new_connection(
    join: type[Joined], cut: int
) -> None:
    relay = relay_of(join)
    node, port = with_messages(relay)
    visitor = visit(relay, port)
    say(relay, visitor, FRAME + FRAME[:cut])
    assert relayed(node) == [FRAME]
    leave(relay, node)
    say(relay, visitor, FRAME[cut:] + FRAME)
    back, _ = with_messages(relay)
    assert relayed(back) == [FRAME, FRAME]


class Stays:
    """Somebody for whom bytes wait, and never the most."""

    memory_source = None

    def memory_short(self) -> None:
        raise AssertionError("it is not the largest")


def test_a_large_frame_that_had_begun_counts_in_the_memory_and_may_be_what_goes() -> None:
    limits = ServiceLimits(memory_bytes=4 << 20, memory_share_per_source=1.0)
    relay = relay_of(limits=limits)
    node, port = with_messages(relay)
    large, small = visit(relay, port), visit(relay, port)
    say(relay, large, application_frame(b"y" * (3 << 20))[: 2 << 20])
    say(relay, small, FRAME[:100])
    held = relay.factory.memory.held_bytes
    assert held >= 2 << 20
    leave(relay, node)
    assert relay.factory.memory.held_bytes == held
    relay.factory.memory.hold(stays := Stays(), 3 << 19)
    assert is_reset(large)
    assert small.lost is None
    relay.factory.memory.hold(stays, 0)
    back, _ = with_messages(relay)
    say(relay, small, FRAME[100:])
    assert relayed(back) == [FRAME]


def test_the_time_for_a_frame_stands_still_meanwhile() -> None:
    limits = ServiceLimits(frame_base_seconds=5.0)
    relay = relay_of(limits=limits)
    node, port = with_messages(relay)
    visitor = visit(relay, port)
    say(relay, visitor, FRAME[:100])
    pass_time(relay, 3)
    leave(relay, node)
    pass_time(relay, 20)
    back, _ = with_messages(relay)
    pass_time(relay, 4)
    assert visitor.lost is None
    pass_time(relay, 2)
    assert is_reset(visitor), "of this connection's time it has used all"
    assert relayed(back) == []


def test_the_wait_ends_with_the_hold() -> None:
    relay = relay_of()
    node, port = with_messages(relay)
    before = visit(relay, port)
    leave(relay, node)
    meanwhile = visit(relay, port)
    pass_time(relay, HOLD_SECONDS - 1)
    assert before.lost is meanwhile.lost is None
    pass_time(relay, 2)
    assert is_reset(before)
    assert is_reset(meanwhile)
    assert port not in relay.run.sockets.bound


def test_messages_and_streams_are_held_for_times_of_their_own() -> None:
    relay = relay_of(times=LeaseTimes(hold=5.0, hold_messages=10.0))
    node = relay.node(1)
    node.prove()
    streams = node.lease("web", mode=pb.MODE_STREAMS)
    messages = node.lease("mesh", mode=pb.MODE_MESSAGES)
    leave(relay, node)
    pass_time(relay, 4)
    assert {streams, messages} <= relay.run.sockets.bound
    pass_time(relay, 3)
    assert relay.run.sockets.bound == {messages}
    pass_time(relay, 4)
    assert relay.run.sockets.bound == set()


def test_the_node_is_told_how_long() -> None:
    relay = relay_of(times=LeaseTimes(hold=5.0, hold_messages=10.0))
    node = relay.node(1)
    node.prove()
    for mode, hold_ms in ((pb.MODE_STREAMS, 5000), (pb.MODE_MESSAGES, 10_000)):
        node.ask("one", mode=mode)
        assert node.take(Opcode.PROXY_RESPONSE).payload.hold_ms == hold_ms


def test_without_a_hold_nobody_waits() -> None:
    relay = relay_of(times=LeaseTimes(hold=30.0, hold_messages=0.0))
    node, port = with_messages(relay)
    visitor = visit(relay, port)
    leave(relay, node)
    assert is_reset(visitor)
    assert relay.visit(port) is None
    assert port not in relay.run.sockets.bound


def test_at_most_so_many_are_kept() -> None:
    relay = relay_of(limits=ServiceLimits(waiting_per_lease=3))
    node, port = with_messages(relay)
    visitors = [visit(relay, port) for _ in range(5)]
    leave(relay, node)
    assert sum(visitor.lost is None for visitor in visitors) == 3
    assert relay.visit(port) is None
    assert relay.room.count == 3
    with_messages(relay)
    assert sum(visitor.lost is None for visitor in visitors) == 3


@pytest.mark.parametrize("kind", [with_messages, claimed])
def test_a_node_that_takes_its_lease_over_has_its_visitors_at_once(kind: Any) -> None:
    relay = relay_of()
    old, port = kind(relay)
    visitor = visit(relay, port)
    say(relay, visitor, FRAME[:100])
    new, again = kind(relay)
    assert again == port
    say(relay, visitor, FRAME[100:])
    assert relayed(new) == [FRAME]
    old.transport.abortConnection()
    relay.pump()
    say(relay, visitor, FRAME)
    assert relayed(new) == [FRAME], "the end of the old connection changes nothing"


def test_who_comes_while_the_grant_is_on_its_way_to_the_disk_waits(disk_thread: Any) -> None:
    relay = relay_of()
    node, port = claimed(relay)
    before = visit(relay, port)
    leave(relay, node)
    disk_thread.waits = True
    back = relay.node(7)
    back.say(Opcode.PROXY_REQUEST)
    meanwhile = visit(relay, port)
    say(relay, before, FRAME)
    say(relay, meanwhile, FRAME)
    assert back.heard() == []
    disk_thread.all_turns()
    relay.pump()
    assert [said.opcode for said in back.heard()] == [Opcode.PROXY_RESPONSE, 1000, 1000]


def test_who_comes_while_a_move_is_refused_is_served(disk_thread: Any) -> None:
    relay = relay_of()
    node, port = with_messages(relay)
    disk_thread.waits = True
    node.ask("mesh", nonce=2, mode=pb.MODE_MESSAGES, proxy_address=f":{port + 1}")
    visitor = visit(relay, port + 1)
    disk_thread.turn(DISK_FULL)
    relay.pump()
    assert node.refused() == (pb.REFUSAL_EXHAUSTED, 2)
    assert is_reset(visitor), "that port is nobody's"
    stays = visit(relay, port)
    say(relay, stays, FRAME)
    assert relayed(node) == [FRAME]


@pytest.mark.parametrize(
    ("before", "after"),
    [(pb.MODE_MESSAGES, pb.MODE_STREAMS), (pb.MODE_STREAMS, pb.MODE_MESSAGES)],
)
def test_who_waits_for_the_other_mode_is_turned_away(before: pb.Mode, after: pb.Mode) -> None:
    relay = relay_of(times=LeaseTimes(hold=20.0, hold_messages=20.0))
    node = relay.node(1)
    node.prove()
    port = node.lease("one", mode=before)
    there = visit(relay, port)
    leave(relay, node)
    waits = visit(relay, port)
    back = relay.node(1)
    back.prove()
    assert back.lease("one", mode=after) == port
    assert is_reset(there)
    assert is_reset(waits)
    relay.visit(port)
    assert relay.room.count == 0


def test_who_waits_is_turned_away_when_the_lease_is_revoked() -> None:
    relay = relay_of()
    node, port = with_messages(relay)
    visitor = visit(relay, port)
    leave(relay, node)
    assert relay.run.registry.revoke(lambda owner: owner.origin == "mesh") == 1
    assert is_reset(visitor)


def test_a_release_ends_the_visitors() -> None:
    relay = relay_of()
    node, port = with_messages(relay)
    visitor = visit(relay, port)
    node.say(Opcode.RELEASE, pb.Release(origin_address="mesh"), 9)
    assert is_reset(visitor)


def test_when_the_service_stops_nobody_waits() -> None:
    relay = relay_of()
    node, port = with_messages(relay)
    visitor = visit(relay, port)
    relay.room.close()
    leave(relay, node)
    assert is_reset(visitor)


def test_what_a_bad_frame_costs_is_one_visitor_also_after_the_hold() -> None:
    relay = relay_of()
    node, port = with_messages(relay)
    good, bad = visit(relay, port), visit(relay, port)
    leave(relay, node)
    say(relay, bad, b"\0" * 40)
    say(relay, good, FRAME)
    back, _ = with_messages(relay)
    assert is_reset(bad)
    assert relayed(back) == [FRAME]


def test_a_visitor_with_a_pace_waits_as_well() -> None:
    relay = relay_of(limits=ServiceLimits(lease_bytes_per_second=3000))
    node, port = with_messages(relay)
    visitor = visit(relay, port)
    say(relay, visitor, FRAME * 4)
    pass_time(relay, 1)
    leave(relay, node)
    pass_time(relay, 5)
    back, _ = with_messages(relay)
    pass_time(relay, 5)
    got = relayed(node) + relayed(back)
    assert set(got) == {FRAME}
    assert len(got) == 4


@pytest.mark.parametrize("join", [Joined, LendingPair])
def test_a_node_that_ends_in_the_middle_of_its_visitors_read_keeps_that_visitor(
    join: type[Joined], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the memory is short, and what the visitor sends just then makes it too much."""
    relay = relay_of(join, kernel_bytes=100_000)
    with monkeypatch.context() as patched:
        patched.setattr(MainConnection, "_filled", lambda one: one.abort("memory is short"))
        node, port = with_messages(relay)
    visitor = visit(relay, port)
    node.transport.pauseProducing()
    frames = [application_frame(bytes([number]) * 9_000) for number in range(60)]
    for frame in frames:
        visitor.transport.write(frame)
    relay.pump()
    assert node.lost is not None
    assert visitor.lost is None
    back, _ = with_messages(relay)
    got = relayed(back)
    assert 0 < len(got) < len(frames)
    assert got == frames[-len(got) :], "whole frames, in order, none twice"


# ----------------------------------------------------------------- real processes


@pytest.fixture
def real_relay(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Relay]:
    port, low = free_ports(2)
    relay = Relay(tmp_path / "relay", port, range(low, low + 1), "--hold", "0")
    yield relay
    assert relay.end(signal.SIGTERM) == 0
    assert "Traceback" not in relay.stdout + relay.stderr


def register(relay: Relay) -> tuple[socket.socket, int]:
    node = socket.create_connection(("127.0.0.1", relay.port), timeout=20)
    node.sendall(proxy_request(1))
    answer = pb.ProxyResponse.FromString(receive_message(node).message)
    return node, int(answer.proxy_address.rpartition(":")[2])


@pytest.mark.process
@pytest.mark.heavy
def test_a_real_node_that_is_reset_and_comes_again_is_a_pause(real_relay: Relay) -> None:
    node, port = register(real_relay)
    there = socket.create_connection(("127.0.0.1", port), timeout=20)
    there.sendall(application_frame(b"first"))
    assert receive_message(node).message.endswith(b"first")
    half = application_frame(b"second" * 500)
    there.sendall(half[:700])
    node.close()
    real_relay.wait_for(r"node gone from port .*")
    comes = socket.create_connection(("127.0.0.1", port), timeout=20)
    comes.setblocking(False)
    sent = 0
    while select.select([], [comes], [], 0.5)[1]:
        sent += comes.send(application_frame(b"z" * 60_000))
    ours = sent - _unsent_bytes(comes)
    assert ours <= 256 * 1024, "so much of a visitor that waits is in the relay's kernel"
    there.sendall(half[700:])
    back, again = register(real_relay)
    assert again == port
    heard = {receive_message(back).message[-6:] for _ in range(2)}
    assert heard == {b"second", b"zzzzzz"}
    for one in (there, comes, back):
        one.close()


def _unsent_bytes(connection: socket.socket) -> int:
    """What is in the sender's own kernel: not acknowledged."""
    count = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), 0x5411, count)  # SIOCOUTQ
    return count[0]


@pytest.mark.process
@pytest.mark.heavy
def test_a_visitor_that_waited_is_fast_again(real_relay: Relay) -> None:
    node, port = register(real_relay)
    node.close()
    real_relay.wait_for(r"node gone from port .*")
    comes = socket.create_connection(("127.0.0.1", port), timeout=20)
    comes.sendall(application_frame(b"first"))
    back, _ = register(real_relay)
    assert receive_message(back).message.endswith(b"first")
    total, frame = 64, application_frame(b"f" * (1 << 20))

    def send() -> None:
        for _ in range(total):
            comes.sendall(frame)

    sender = Thread(target=send)
    sender.start()
    left = total * len(frame)
    while left:
        left -= len(back.recv(min(left, 1 << 20)))
    sender.join(20)
    back.sendall(keepalive(1))
    assert receive_message(back).opcode == Opcode.KEEPALIVE_RESPONSE
    for one in (comes, back):
        one.close()


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.parametrize("how", ["resets", "ends"])
def test_who_comes_and_goes_takes_no_place(real_relay: Relay, how: str) -> None:
    node, port = register(real_relay)
    node.close()
    real_relay.wait_for(r"node gone from port .*")
    for _ in range(200):
        gone = socket.create_connection(("127.0.0.1", port), timeout=20)
        if how == "resets":
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    stays = socket.create_connection(("127.0.0.1", port), timeout=20)
    stays.sendall(application_frame(b"still here"))
    back, _ = register(real_relay)
    assert receive_message(back).message.endswith(b"still here")
    for one in (stays, back):
        one.close()


@pytest.mark.process
@pytest.mark.heavy
def test_who_waits_keeps_its_place(real_relay: Relay) -> None:
    node, port = register(real_relay)
    node.close()
    real_relay.wait_for(r"node gone from port .*")
    waiting = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(64)]
    late = socket.create_connection(("127.0.0.1", port), timeout=20)
    with pytest.raises(ConnectionResetError):
        late.recv(1)
    assert not select.select(waiting, [], [], 0)[0]
    for one in waiting:
        one.close()
