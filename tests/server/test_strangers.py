"""How many connections may be there that have not said who they are, and how fast more may come."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.server.limits import ServiceLimits
from proxyservice.server.strangers import Admission, Strangers
from tests.attacks.kit import closed, connections, proxy_request, receive_message
from tests.attacks.running import RunningService
from tests.leases.harness import store_thread
from tests.server.memory import MemoryRelay

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
    admission = Admission(10.0)
    now, taken = 100.0, 0
    while now < 103.0:
        rest = admission.admitted(now)
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
    """50 at once and 50 a second: of 125 the last is served after some rest."""
    with (
        RunningService(tmp_path, "--limit", "connections-a-second=50") as service,
        ExitStack() as stack,
    ):
        begun = time.monotonic()
        connections(stack, service, 125)
        with service.connect() as last:
            last.sendall(proxy_request(7))
            assert receive_message(last)
        assert time.monotonic() - begun > 0.5, "no rest was taken"
