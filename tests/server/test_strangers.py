"""How many connections may be there that have not said who they are, and how fast more may come."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import capturedLogs as capture_logs

from proxyservice.server.admission import Admission
from proxyservice.server.limits import ServiceLimits
from proxyservice.server.strangers import Strangers
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import closed, connections, proxy_request, receive_message
from tests.attacks.running import RunningService
from tests.leases.harness import store_thread
from tests.server.memory import MemoryRelay, RawNode

LIMITS = ServiceLimits(connections_without_identity=10, strangers_per_source=4, silent_per_source=2)


def test_of_one_source_the_oldest_goes() -> None:
    strangers: Strangers[int] = Strangers(LIMITS)
    assert [strangers.arrived(number, "a", 0.0) for number in range(6)] == [None] * 4 + [0, 1]
    assert strangers.arrived(9, "b", 0.0) is None
    assert len(strangers) == 5


def test_a_third_silent_one_pushes_out_the_first_that_had_time_to_speak() -> None:
    strangers: Strangers[int] = Strangers(LIMITS)
    assert strangers.arrived(0, "a", 0.0) is None
    assert strangers.arrived(1, "a", 1.0) is None
    assert strangers.arrived(2, "a", 1.5) is None, "none of them had time"
    assert strangers.arrived(3, "a", 2.0) == 0
    strangers.spoke(1)
    assert strangers.arrived(4, "a", 9.0) == 2, "the one that spoke is older"


def test_a_trusted_source_counts_in_the_whole_number_only() -> None:
    strangers: Strangers[int] = Strangers(LIMITS)
    assert all(strangers.arrived(number, None, number) is None for number in range(10))
    assert strangers.arrived(10, "a", 10.0) == 0


def test_at_the_cap_the_oldest_of_the_busiest_source_goes() -> None:
    strangers: Strangers[int] = Strangers(LIMITS)
    for number in range(7):
        strangers.arrived(number, str(number), 0.0)
    for number in (7, 8, 9):
        strangers.arrived(number, "busy", 0.0)
    assert strangers.arrived(10, "another", 0.0) == 7


@given(st.lists(st.tuples(st.sampled_from("asf"), st.integers(0, 30), st.sampled_from("xyz"))))
def test_nothing_stays_behind(events: list[tuple[str, int, str]]) -> None:
    strangers: Strangers[int] = Strangers(LIMITS)
    here: dict[int, str] = {}
    for at, (what, number, source) in enumerate(events):
        if what == "a" and number not in here:
            here[number] = source
            goes = strangers.arrived(number, source, at)
            if goes is not None:
                del here[goes]
        elif what == "s":
            strangers.spoke(number)
        elif what == "f":
            strangers.forget(number)
            here.pop(number, None)
        assert len(strangers) == len(here) <= 10
        for one in "xyz":
            assert list(here.values()).count(one) <= 4
    for number in here:
        strangers.forget(number)
    assert len(strangers) == 0
    assert strangers._sources == {}


def test_a_second_of_connections_is_free_then_they_come_at_their_rate() -> None:
    admission = Admission(ServiceLimits(connections_a_second=10))
    now, taken = 100.0, 0
    while now < 103.0:
        rest = admission.taken(now)
        taken += 1
        now += rest
    assert 38 <= taken <= 42


# ------------------------------------------------------------------ in the service


def test_a_connection_that_identified_itself_is_no_stranger() -> None:
    with store_thread():
        relay = MemoryRelay(ports=range(20000, 20040), limits=LIMITS)
        nodes = []
        for number in range(12):
            nodes.append(relay.node(number + 1, source=f"203.0.113.{number // 6}"))
            nodes[-1].prove()
            nodes[-1].lease()
        assert all(node.lost is None for node in nodes)
        idle = [relay.node(100 + n, source="203.0.113.9") for n in range(5)]
        assert [one.lost is not None for one in idle] == [True] + [False] * 4
        for one in idle:
            one.transport.abortConnection()
        assert len(relay.factory._strangers) == 0


@pytest.mark.process
def test_with_sockets_16_of_an_address_and_trusted_ones_without_bound(tmp_path: Path) -> None:
    for trusted, most in (("none", 16), ("127.0.0.0/8", 40)):
        directory = tmp_path / trusted[:4]
        directory.mkdir()
        with (
            RunningService(directory, "--trusted-sources", trusted) as service,
            ExitStack() as stack,
        ):
            peers = connections(stack, service, 40)
            for peer in peers[: 40 - most]:
                assert closed(peer)
            with service.connect() as node:
                node.sendall(proxy_request(1))
                assert receive_message(node)
            peers[-1].sendall(proxy_request(2))
            assert receive_message(peers[-1])


def test_who_has_begun_to_speak_is_not_silent() -> None:
    with store_thread():
        relay = MemoryRelay(limits=LIMITS)
        slow = [relay.node(number + 1, source="203.0.113.1") for number in range(3)]
        for node in slow:
            node.write(b"\x5d")
        relay.pass_time(3)
        relay.node(9, source="203.0.113.1")
        assert all(node.lost is None for node in slow)


@pytest.mark.process
def test_a_burst_waits_in_the_backlog_and_nobody_is_lost(tmp_path: Path) -> None:
    """50 at once and 50 a second: of 200 the last is served after some rest."""
    with (
        RunningService(tmp_path, "--limit", "connections-a-second=50") as service,
        ExitStack() as stack,
    ):
        begun = time.monotonic()
        connections(stack, service, 200)
        with service.connect() as last:
            last.sendall(proxy_request(7))
            assert receive_message(last)
        assert time.monotonic() - begun > 0.5, "no rest was taken"


# ---------------------------------------------------------------- all of one source together


def test_beyond_the_bound_the_oldest_that_is_of_no_use_goes_else_the_newcomer() -> None:
    limits = ServiceLimits(connections_per_source=4)
    useless = {1, 2}
    strangers: Strangers[int] = Strangers(limits, useless.__contains__)
    for number in range(4):
        assert strangers.arrived(number, "a", 0.0) is None
        strangers.identified(number)
    assert strangers.arrived(4, "a", 0.0) == 1
    strangers.identified(4)
    assert strangers.arrived(5, "a", 0.0) == 2
    strangers.identified(5)
    assert strangers.arrived(6, "a", 0.0) == 6, "all others are of use"
    assert strangers.arrived(7, "b", 0.0) is None
    assert all(strangers.arrived(number, None, 0.0) is None for number in range(10, 30))


def test_proved_connections_without_a_lease_are_bounded_and_end() -> None:
    with store_thread():
        limits = ServiceLimits(connections_per_source=5, seconds_without_lease=20.0)
        relay = MemoryRelay(ports=range(20000, 20040), limits=limits)
        idle = []
        for seed in range(1, 9):
            idle.append(relay.node(seed, source="203.0.113.1"))
            idle[-1].prove()
        assert [one.lost is None for one in idle] == [False] * 3 + [True] * 5
        good, other = node_of(relay, 20, "203.0.113.1"), node_of(relay, 21, "203.0.113.2")
        relay.pass_time(19)
        assert idle[-1].lost is None
        relay.pass_time(2)
        assert all(one.lost is not None for one in idle)
        relay.pass_time(100)
        assert good.lost is other.lost is None, "they have leases"


def test_without_its_last_lease_a_connection_ends_after_a_while() -> None:
    with store_thread():
        relay = MemoryRelay(limits=ServiceLimits(seconds_without_lease=20.0))
        node = relay.node(1, source="203.0.113.1")
        node.prove()
        node.lease()
        relay.pass_time(30)
        assert node.lost is None
        node.say(Opcode.RELEASE, pb.Release(origin_address=""), 2)
        relay.pass_time(14)
        assert node.lost is None
        relay.pass_time(7)
        assert node.lost is not None


def test_a_part_a_node_that_has_its_port_stays() -> None:
    with store_thread():
        relay = MemoryRelay(limits=ServiceLimits(seconds_without_lease=10.0))
        node = relay.node(1, source="203.0.113.1")
        node.say(Opcode.PROXY_REQUEST, pb.ProxyRequest())
        assert node.take(Opcode.PROXY_RESPONSE)
        relay.pass_time(100)
        assert node.lost is None


# --------------------------------------------- what nodes leave behind when they reconnect


def node_of(relay: MemoryRelay, seed: int, source: str) -> RawNode:
    """A deployed node, which may say nothing for as long as it likes."""
    node = relay.node(seed, source=source)
    node.say(Opcode.PROXY_REQUEST, pb.ProxyRequest())
    assert node.take(Opcode.PROXY_RESPONSE)
    return node


@pytest.mark.parametrize("source", ["203.0.113.1", "127.0.0.1"])
def test_silent_ones_beside_a_node_are_spared_and_none_is_told(source: str) -> None:
    with store_thread(), capture_logs() as logged:
        relay = MemoryRelay(ports=range(20000, 20040))
        for seed in range(1, 9):
            node_of(relay, seed, source)
        silent = []
        for number in range(8):
            relay.pass_time(3)
            silent.append(relay.node(100 + number, source=source))
        relay.pass_time(600, step=1)
        assert all(one.lost is None for one in silent)
        assert len(relay.factory._strangers) == 0, "they push nobody out"
        silent[0].prove()
        assert not [event for event in logged if "refused" in str(event.get("log_format"))]


def test_spared_ones_are_bounded_and_closed_without_a_word() -> None:
    limits = ServiceLimits(silent_spared_per_source=3)
    with store_thread(), capture_logs() as logged:
        relay = MemoryRelay(limits=limits)
        node_of(relay, 1, "203.0.113.1")
        silent = [relay.node(100 + number, source="203.0.113.1") for number in range(5)]
        relay.pass_time(70)
        assert [one.lost is None for one in silent] == [True] * 3 + [False] * 2
        assert not [event for event in logged if "refused" in str(event.get("log_format"))]


def test_without_a_node_of_the_source_a_silent_one_ends_and_is_told() -> None:
    with store_thread(), capture_logs() as logged:
        relay = MemoryRelay()
        gone = node_of(relay, 1, "203.0.113.1")
        silent = relay.node(2, source="203.0.113.1")
        relay.pass_time(61)
        assert silent.lost is None
        gone.transport.abortConnection()
        relay.pass_time(61)
        assert silent.lost is not None
        refused = [event for event in logged if "refused" in str(event.get("log_format"))]
        assert len(refused) == 1


def test_one_that_had_to_go_is_not_spared_before_its_socket_is_closed() -> None:
    strangers: Strangers[int] = Strangers(LIMITS)
    strangers.arrived(0, "a", 0.0)
    strangers.identified(0)
    for number in range(1, 6):
        goes = strangers.arrived(number, "a", 0.0)
    assert goes == 1
    assert not strangers.spares(1)
    assert not strangers.has_node(1)
    assert strangers.spares(2)


def test_a_spared_one_that_speaks_is_a_stranger_again() -> None:
    with store_thread():
        relay = MemoryRelay()
        node_of(relay, 1, "203.0.113.1")
        silent = relay.node(2, source="203.0.113.1")
        relay.pass_time(61)
        assert len(relay.factory._strangers) == 0
        silent.write(b"\x5d")
        assert len(relay.factory._strangers) == 1
        relay.pass_time(11)
        assert silent.lost is not None, "ten seconds, as for anybody"


# ------------------------------------------------------------------- how fast they may come


def test_a_source_has_a_share_and_another_does_not_notice() -> None:
    limits = ServiceLimits(connections_a_second_per_source=10.0, connection_burst_per_source=20.0)
    admission, now, taken = Admission(limits), 100.0, 0
    for _ in range(3000):
        taken += admission.admits("busy", now)
        now += 0.001
    assert 45 <= taken <= 55
    assert admission.admits("good", now)
    assert len(admission) == 2


def test_some_sources_together_do_not_use_up_what_there_is_for_all() -> None:
    """Sixty sources of 25 a second each; a thousand are taken in a second."""
    admission, now, taken, rested = Admission(ServiceLimits()), 100.0, 0, 0.0
    for at in range(60_000):
        if admission.admits(str(at % 60), now):
            taken += 1
            rested = max(rested, admission.taken(now))
        if at % 1000 == 999:
            assert admission.admits(f"good {at}", now), "whoever was not here lately comes in"
            rested = max(rested, admission.taken(now))
        now += 1 / 6000
    assert 7_000 <= taken <= 11_000
    assert rested < 0.1


def test_what_is_remembered_of_sources_is_forgotten() -> None:
    admission, now = Admission(ServiceLimits()), 100.0
    for number in range(20_000):
        admission.admits(str(number), now)
        now += 0.01
    assert len(admission) < 1000


def test_beyond_its_share_a_connection_is_closed_as_it_comes() -> None:
    limits = ServiceLimits(connections_a_second_per_source=64.0, connection_burst_per_source=5.0)
    with store_thread():
        relay = MemoryRelay(limits=limits)
        far, trusted = (IPv4Address("TCP", host, 1) for host in ("203.0.113.1", "127.0.0.1"))
        made = [relay.factory.buildProtocol(far) for _ in range(7)]
        assert [one is not None for one in made] == [True] * 5 + [False] * 2
        assert all(relay.factory.buildProtocol(trusted) for _ in range(20))
        mapped = IPv6Address("TCP", "::ffff:203.0.113.1", 1)
        assert relay.factory.buildProtocol(mapped) is None
