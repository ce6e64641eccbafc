"""Who may displace a live holder, from where, and how often: T4, and the probe of claimed ones."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxyservice.leases.lines import BURST_SECONDS, LINES_PER_SECOND
from proxyservice.net.acknowledged import acknowledged_bytes
from proxyservice.net.tcp_answers import TcpAnswers
from proxyservice.server import takeover
from proxyservice.server.claims import Claimed
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import keepalive, proxy_request, receive_message, register
from tests.attacks.running import RunningService, scaled
from tests.leases.harness import store_thread
from tests.leases.joined import claimed
from tests.node.joined import End
from tests.server.memory import MemoryRelay, RawNode
from tests.server.test_refusals import logged

HOME, ELSEWHERE = "198.51.100.1", "203.0.113.9"


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> MemoryRelay:
    def acknowledged(end: End) -> int:
        return end.sent_bytes - len(end.in_flight)

    monkeypatch.setattr(takeover, "acknowledged_bytes", acknowledged)
    return MemoryRelay()


def claim(node: RawNode) -> None:
    node.say(Opcode.PROXY_REQUEST, pb.ProxyRequest())


def port_told(node: RawNode) -> int:
    return int(node.take(Opcode.PROXY_RESPONSE).payload.proxy_address.rpartition(":")[2])


def silent(node: RawNode) -> None:
    """Its machine is gone: nothing that is sent arrives any more, and nobody is told."""
    node.transport.reading = False


# ------------------------------------------------------------------ claimed holders


def test_a_live_claimed_holder_stays_and_the_newcomer_hears_nothing(relay: MemoryRelay) -> None:
    holder = relay.node(1, source=HOME)
    claim(holder)
    port = port_told(holder)
    thief = relay.node(1, source=ELSEWHERE)
    claim(thief)
    relay.pass_time(1.5)
    assert thief.lost is not None
    assert thief.heard() == []
    assert holder.take(Opcode.KEEPALIVE_RESPONSE), "the probe"
    assert relay.visit(port) is not None
    assert holder.lost is None


def test_a_dead_claimed_holder_is_displaced_in_2_s(relay: MemoryRelay) -> None:
    holder = relay.node(1, source=HOME)
    claim(holder)
    port = port_told(holder)
    silent(holder)
    newcomer = relay.node(1, source=ELSEWHERE)
    claim(newcomer)
    relay.pass_time(1.75)
    assert newcomer.heard() == []
    relay.pass_time(0.5)
    assert port_told(newcomer) == port
    assert holder.lost is not None


def test_from_the_same_address_a_claimed_holder_is_displaced_at_once(relay: MemoryRelay) -> None:
    holder = relay.node(1, source=HOME)
    claim(holder)
    port = port_told(holder)
    again = relay.node(1, source=HOME)
    claim(again)
    assert port_told(again) == port
    assert holder.lost is not None


def test_a_holder_that_is_busy_but_reads_counts_as_alive(relay: MemoryRelay) -> None:
    """Much waits for it; not all of it can be acknowledged in the time of a probe."""
    holder = relay.node(1, source=HOME)
    claim(holder)
    port_told(holder)
    silent(holder)
    server = holder.transport.other
    server.write(bytes(server.kernel_bytes + 100_000))
    newcomer = relay.node(1, source=ELSEWHERE)
    claim(newcomer)
    relay.pass_time(1)
    del server.in_flight[:1000]  # the holder's kernel took some
    relay.pass_time(2.5)
    assert newcomer.lost is not None
    assert newcomer.heard() == []
    assert holder.lost is None


def test_when_the_holder_goes_the_newcomer_need_not_wait_longer(relay: MemoryRelay) -> None:
    holder = relay.node(1, source=HOME)
    claim(holder)
    port = port_told(holder)
    silent(holder)
    newcomer = relay.node(1, source=ELSEWHERE)
    claim(newcomer)
    holder.transport.abortConnection()
    relay.pass_time(0.25)
    assert port_told(newcomer) == port


def test_a_newcomer_that_goes_takes_nothing(relay: MemoryRelay) -> None:
    holder = relay.node(1, source=HOME)
    claim(holder)
    port = port_told(holder)
    silent(holder)
    newcomer = relay.node(1, source=ELSEWHERE)
    claim(newcomer)
    newcomer.transport.abortConnection()
    relay.pass_time(3)
    assert holder.lost is None
    assert relay.run.registry.visited(port) is not None
    assert len(relay.factory.takeovers) == 0


def test_of_two_newcomers_the_later_one_waits_on(relay: MemoryRelay) -> None:
    holder = relay.node(1, source=HOME)
    claim(holder)
    port = port_told(holder)
    silent(holder)
    first, second = (relay.node(1, source=ELSEWHERE) for _ in range(2))
    claim(first)
    relay.pass_time(0.5)
    claim(second)
    relay.pass_time(2.25)
    assert first.lost is not None
    assert first.heard() == []
    assert port_told(second) == port


def test_a_claimed_node_of_part_b_is_told_when_to_try_again(relay: MemoryRelay) -> None:
    def hello_and_ask(node: RawNode) -> None:
        node.hello()
        node.take(Opcode.CHALLENGE)
        node.ask("")

    holder = relay.node(1, source=HOME)
    hello_and_ask(holder)
    assert [said.opcode for said in holder.heard()] == [Opcode.WELCOME, Opcode.PROXY_RESPONSE]
    thief = relay.node(1, source=ELSEWHERE)
    hello_and_ask(thief)
    relay.pass_time(0.5)
    welcome, refusal = thief.heard()
    assert welcome.opcode == Opcode.WELCOME
    assert refusal.payload.code == pb.REFUSAL_ADDRESS_UNAVAILABLE
    assert refusal.payload.retry_after_ms == 30_000


def brought_to_read_nothing(relay: MemoryRelay) -> tuple[RawNode, int]:
    """A claimed holder to whom more was sent than it takes; and its port."""
    holder = relay.node(1, source=HOME)
    claim(holder)
    port = port_told(holder)
    silent(holder)
    server = holder.transport.other
    server.write(bytes(server.kernel_bytes + 100_000))
    return holder, port


def test_a_holder_that_reads_nothing_and_answers_tcp_is_alive(
    relay: MemoryRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = TcpAnswers(
        unacknowledged=False, unanswered_probes=0, held_back=True, heard_ago_seconds=14.0
    )
    monkeypatch.setattr(takeover, "tcp_answers", lambda _: answers)
    holder, _ = brought_to_read_nothing(relay)
    newcomer = relay.node(1, source=ELSEWHERE)
    claim(newcomer)
    relay.pass_time(3)
    assert newcomer.lost is not None
    assert newcomer.heard() == []
    assert holder.lost is None


@pytest.mark.parametrize(("heard_ago_seconds", "alive"), [(0.4, True), (5.0, False)])
def test_an_answer_of_any_kind_within_2_s_is_life(
    relay: MemoryRelay, monkeypatch: pytest.MonkeyPatch, heard_ago_seconds: float, alive: bool
) -> None:
    answers = TcpAnswers(
        unacknowledged=True,
        unanswered_probes=1,
        held_back=True,
        heard_ago_seconds=heard_ago_seconds,
    )
    monkeypatch.setattr(takeover, "tcp_answers", lambda _: answers)
    holder, _ = brought_to_read_nothing(relay)
    newcomer = relay.node(1, source=ELSEWHERE)
    claim(newcomer)
    relay.pass_time(3)
    assert (holder.lost is None) == alive
    assert [said.opcode for said in newcomer.heard()] == [Opcode.PROXY_RESPONSE] * (not alive)


def test_a_claimed_lease_whose_holder_the_relay_has_cut_waits_for_its_address(
    relay: MemoryRelay,
) -> None:
    holder, port = brought_to_read_nothing(relay)
    relay.pass_time(31)
    assert holder.lost is not None, "it took no data"
    thief = relay.node(1, source=ELSEWHERE)
    claim(thief)
    relay.pass_time(1.5)
    assert thief.lost is not None
    assert thief.heard() == []
    again = relay.node(1, source=HOME)
    claim(again)
    assert port_told(again) == port, "at once"
    again.transport.abortConnection()
    relay.pump()
    moved = relay.node(1, source=ELSEWHERE)
    claim(moved)
    assert port_told(moved) == port, "it was there, and went by itself"


def test_who_contends_while_the_holder_is_cut_does_not_get_it_either(
    relay: MemoryRelay,
) -> None:
    holder, port = brought_to_read_nothing(relay)
    relay.pass_time(29)
    thief = relay.node(1, source=ELSEWHERE)
    claim(thief)
    relay.pass_time(1.75)
    assert holder.lost is not None
    relay.pass_time(2)
    assert thief.lost is not None
    assert thief.heard() == []
    again = relay.node(1, source=HOME)
    claim(again)
    assert port_told(again) == port


def test_asking_for_a_lease_that_waits_does_not_fill_the_log() -> None:
    relay = MemoryRelay()
    relay.factory.takeovers.cut_holders.cut(claimed(1), HOME, relay.clock.seconds())
    newcomer: Any = SimpleNamespace(connection=SimpleNamespace(source=ELSEWHERE))
    with logged() as text:
        for _ in range(1000):
            assert relay.factory.takeovers.refusal(claimed(1), newcomer) is not None
    assert 0 < text.getvalue().count("does not get it") <= LINES_PER_SECOND * BURST_SECONDS


def test_after_the_time_of_a_lease_it_waits_no_more(relay: MemoryRelay) -> None:
    brought_to_read_nothing(relay)
    relay.pass_time(31)
    assert len(relay.factory.takeovers.cut_holders) == 1
    relay.clock.advance(relay.settings.times.ttl)
    newcomer = relay.node(1, source=ELSEWHERE)
    claim(newcomer)
    assert port_told(newcomer)
    assert len(relay.factory.takeovers.cut_holders) == 0


# -------------------------------------------------------------------- proved holders


def proved(relay: MemoryRelay, source: str, seed: int = 1) -> RawNode:
    node = relay.node(seed, source=source)
    node.prove()
    node.ask("")
    return node


def test_a_proved_key_takes_over_from_anywhere_at_once(relay: MemoryRelay) -> None:
    first = proved(relay, HOME)
    port = port_told(first)
    second = proved(relay, ELSEWHERE)
    assert port_told(second) == port
    assert first.refused() == (pb.REFUSAL_SUPERSEDED, 0)


def test_five_takeovers_at_once_then_one_in_10_s(relay: MemoryRelay) -> None:
    nodes = [proved(relay, HOME)]
    port = port_told(nodes[0])
    for number in range(5):
        nodes.append(proved(relay, (ELSEWHERE, HOME)[number % 2]))
        assert port_told(nodes[-1]) == port
    waits = proved(relay, ELSEWHERE + "9")
    relay.pass_time(9.5)
    assert waits.heard() == []
    assert nodes[-1].lost is None
    relay.pass_time(1)
    assert port_told(waits) == port


def test_at_home_takeovers_are_not_counted(relay: MemoryRelay) -> None:
    for _ in range(20):
        assert port_told(proved(relay, HOME)) == 20000


@pytest.mark.heavy
def test_t4_re_registrations_leave_two_sessions_and_no_memory(relay: MemoryRelay) -> None:
    """10,000 on one key, each from another address: not an object more at the end."""
    count = scaled(10_000, 400)
    nodes: list[RawNode] = []
    before = 0
    for number in range(count):
        nodes.append(proved(relay, f"2001:db8::{number:x}"))
        relay.pairs = [pair for pair in relay.pairs if pair.client.connected]
        if number % 10 == 9:
            relay.pass_time(2, step=0.5)
            alive = [node for node in nodes if node.lost is None]
            assert len(alive) <= 2
            nodes = alive
            assert len(relay.factory.connections) <= 2
        if number == count // 4:
            before = objects()
    assert len(relay.factory.takeovers) <= 2
    assert len(relay.deadlines) <= 2 * 2
    assert objects() - before < LAST_FEW_SESSIONS


LAST_FEW_SESSIONS = 2_000
"""Objects that a dozen sessions and their in-memory ends are made of, at most."""


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def test_buckets_are_forgotten_when_they_are_full_again(relay: MemoryRelay) -> None:
    takeovers: Any = relay.factory.takeovers
    for seed in range(1, 5):
        proved(relay, HOME, seed)
        proved(relay, ELSEWHERE, seed)
    assert len(takeovers) == 4
    relay.pass_time(51, step=0.5)
    for node in (proved(relay, HOME, 1), proved(relay, ELSEWHERE, 1)):
        assert node.lost is None
    assert len(takeovers) < 4


# ------------------------------------------------------------------------- --claimed


@pytest.mark.parametrize(
    ("claimed", "source", "admitted"),
    [
        (Claimed.ALLOW, "8.8.8.8", True),
        (Claimed.LOCAL, "8.8.8.8", False),
        (Claimed.LOCAL, "2a00:1450::1", False),
        (Claimed.LOCAL, "10.1.2.3", True),
        (Claimed.LOCAL, "fd00::1", True),
        (Claimed.LOCAL, "/run/front.sock", True),
        (Claimed.DENY, "127.0.0.1", False),
    ],
)
def test_who_may_claim(claimed: Claimed, source: str, admitted: bool) -> None:
    relay = MemoryRelay(claimed=claimed)
    node = relay.node(1, source=source)
    claim(node)
    assert [said.opcode for said in node.heard()] == [Opcode.PROXY_RESPONSE] * admitted
    relay.pass_time(2)
    assert (node.lost is None) == admitted
    prover = relay.node(2, source=source)
    prover.prove()
    prover.ask("")
    assert prover.take(Opcode.PROXY_RESPONSE)


def test_a_claim_in_part_b_is_refused_with_a_reason() -> None:
    relay = MemoryRelay(claimed=Claimed.DENY)
    node = relay.node(1)
    node.hello()
    node.take(Opcode.CHALLENGE)
    node.ask("")
    assert node.refused() == (pb.REFUSAL_UNAUTHENTICATED, 0)
    relay.pass_time(2)
    assert node.lost is not None


# --------------------------------------------------------------------- real sockets


@pytest.mark.process
def test_the_kernel_tells_that_a_claimed_holder_is_alive(tmp_path: Path) -> None:
    with RunningService(tmp_path) as service:
        holder, _ = register(service, 1)
        with holder, service.connect(source="127.0.0.2") as thief:
            thief.sendall(proxy_request(1))
            assert thief.recv(1) == b"", "closed without a word"
            assert receive_message(holder).opcode == Opcode.KEEPALIVE_RESPONSE
            holder.sendall(keepalive(1))
            assert receive_message(holder).opcode == Opcode.KEEPALIVE_RESPONSE
        service.wait_to_say("is alive: 127.0.0.2 does not get it")
        service.wait_to_say("nodes that prove no key are let in")


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell")
def test_acknowledged_bytes_are_those_that_the_peer_has(tmp_path: Path) -> None:
    import select
    import socket

    class Transport:
        sent_bytes = 0

        def getHandle(self) -> socket.socket:
            return mine

    ends = socket.create_server(("127.0.0.1", 0))
    with ends, socket.create_connection(ends.getsockname()) as mine:
        peer, _ = ends.accept()
        with peer:
            transport = Transport()
            transport.sent_bytes = mine.send(bytes(100_000))
            while (told := acknowledged_bytes(transport)) != transport.sent_bytes:
                assert told is not None
                select.select([], [], [], 0.01)


@pytest.mark.heavy
@pytest.mark.process
@pytest.mark.parametrize("claimed", ["allow", "local", "deny"])
def test_the_option(tmp_path: Path, claimed: str) -> None:
    with RunningService(tmp_path, "--claimed", claimed) as service, service.connect() as node:
        node.sendall(proxy_request(1))
        if claimed == "deny":
            assert node.recv(1) == b""
        else:
            assert receive_message(node).opcode == Opcode.PROXY_RESPONSE
        assert "nodes that prove no key are let in" not in service.log, "it was meant"
