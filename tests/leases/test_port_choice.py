"""Nodes that may be on some ports only, and what it costs to know that none of them is left."""

from __future__ import annotations

import time

import pytest

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Identity, LeaseQuota, LeaseTimes, Owner, PortChoice
from proxyservice.leases.port_set import PortSet
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.table import LeaseTable
from proxyservice.wire import proxyservice_pb2 as pb
from tests.leases.harness import Disk, Run, store_thread

TIMES = LeaseTimes(ttl=100.0, proved_ttl=1000.0, quarantine=10.0)
RANGE = range(20000, 30000)
FOUR_THOUSAND = PortChoice(among=PortSet.of_ranges([range(20000, 24000)]))
BUSY_SECONDS = 60.0


def owner(number: int, origin: str = "") -> Owner:
    return Owner(Identity(True, number.to_bytes(32, "big")), origin)


def test_port_sets() -> None:
    ports = PortSet.of_ranges([range(5, 8), range(20000, 20001)])
    assert ports == PortSet.of([20000, 7, 6, 5])
    assert [port for port in range(20010) if port in ports] == [5, 6, 7, 20000]
    assert (len(ports), ports.lowest(), PortSet().lowest()) == (4, 5, None)
    assert ports.without(5).with_port(9) == PortSet.of([6, 7, 9, 20000])
    assert (ports & PortSet.of([6, 8])).lowest() == 6
    assert 99_999 not in ports
    assert repr(ports) == "<4 ports from 5 on>"


def test_of_some_ports_the_lowest_that_is_free_and_none_of_the_others() -> None:
    table = LeaseTable(RANGE, TIMES, 1)
    choice = PortChoice(among=PortSet.of([20007, 20009]))
    ports = [table.acquire(owner(n), 0.0, "", choice=choice).lease.port for n in range(2)]
    assert ports == [20007, 20009]
    with pytest.raises(RefusedError, match="--policy") as caught:
        table.acquire(owner(2), 0.0, "", choice=choice)
    assert caught.value.code == pb.REFUSAL_EXHAUSTED


def test_a_port_of_its_own_comes_first_and_then_one_that_it_had() -> None:
    table = LeaseTable(RANGE, TIMES, 1)
    table.reserve(frozenset({20005}), 0.0)
    choice = PortChoice(own=20005)
    first = table.acquire(owner(1), 0.0, "", choice=choice)
    assert first.lease.port == 20005
    second = table.acquire(owner(1, "b"), 0.0, "", choice=choice)
    assert second.lease.port not in (20005, RANGE.start + 5)
    table.release(owner(1, "b"), second.generation, 0.0)
    again = table.acquire(owner(1, "b"), 1.0, "", choice=choice)
    assert again.lease.port == second.lease.port


def test_the_quota_is_looked_at_before_any_port() -> None:
    table = LeaseTable(RANGE, TIMES, 1)
    for number in range(4000):
        table.acquire(owner(number), 0.0, "", choice=FOUR_THOUSAND)
    with pytest.raises(RefusedError, match="this key has 1 leases"):
        table.acquire(owner(0, "b"), 0.0, "", choice=FOUR_THOUSAND, limits=LeaseQuota(per_key=1))


def test_a_hundred_requests_for_one_of_four_thousand_taken_ports_take_milliseconds() -> None:
    """They took a second when each port was tried; 100 ms is what any turn may take."""
    table = LeaseTable(RANGE, TIMES, 1)
    for number in range(4000):
        table.acquire(owner(number), 0.0, "", choice=FOUR_THOUSAND)
    began = time.process_time()
    for number in range(100):
        with pytest.raises(RefusedError):
            table.acquire(owner(5000 + number), 0.0, "", choice=FOUR_THOUSAND)
    assert time.process_time() - began < 0.1


def test_ten_thousand_reserved_ports_are_not_looked_through_either() -> None:
    table = LeaseTable(RANGE, TIMES, 1)
    table.reserve(frozenset(RANGE), 0.0)
    began = time.process_time()
    for number in range(100):
        with pytest.raises(RefusedError):
            table.acquire(owner(number), 0.0, "")
    assert time.process_time() - began < 0.1
    assert table.counts()["free"] == len(RANGE)


def run_of(registry_class: type[LeaseRegistry] = LeaseRegistry, **options: object) -> Run:
    return Run(Disk(), range(1, 9), times=TIMES, registry_class=registry_class, **options)  # type: ignore[arg-type]


def test_a_lease_that_may_not_stay_moves_to_a_port_that_can_be_bound() -> None:
    with store_thread():
        run = run_of(busy={5})
        assert run.lease(owner(1)).lease.port == 1
        grant = run.lease(owner(1), choice=PortChoice(among=PortSet.of([5, 6])))
        assert grant.lease.port == 6
        assert run.lease(owner(1), choice=PortChoice(among=PortSet.of([5, 6]))).lease.port == 6


def test_with_its_own_port_taken_it_stays_where_it_may_be() -> None:
    with store_thread():
        run = run_of()
        run.registry.reserve(frozenset({2}))
        run.lease(owner(2), wanted_port=2)
        choice = PortChoice(own=2, among=PortSet.of([3, 4, 5]))
        assert run.lease(owner(9), choice=choice).lease.port == 3
        assert run.lease(owner(1), choice=choice).lease.port == 4
        released = run.lease(owner(9), choice=choice)
        run.registry.release(owner(9), released.generation)
        run.pass_time(20)
        assert run.lease(owner(1), choice=choice).lease.port == 4, "not to the lowest one"


def test_one_whose_port_is_busy_moves_within_its_ports() -> None:
    with store_thread():
        disk = Disk()
        choice = PortChoice(among=PortSet.of([5, 6]))
        first = Run(disk, range(1, 9), times=TIMES)
        assert first.lease(owner(1), choice=choice).lease.port == 5
        first.stop()
        second = Run(disk, range(1, 9), times=TIMES, busy={5})
        assert second.lease(owner(1), choice=choice).lease.port == 6
        second.stop()
        third = Run(disk, range(1, 9), times=TIMES, busy={5, 6})
        refused = third.refusal(owner(1), choice=choice)
        assert refused.code == pb.REFUSAL_EXHAUSTED
        assert third.port_of(owner(1)) in (5, 6), "both are its own"
