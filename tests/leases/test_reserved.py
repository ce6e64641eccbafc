"""Ports that are given by their number alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Identity, LeaseTimes, Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.table import LeaseTable
from tests.leases.harness import Disk, Run, store_thread

TIMES = LeaseTimes(ttl=100.0, proved_ttl=1000.0, quarantine=50.0)


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


def owner(number: int) -> Owner:
    return Owner(Identity(True, bytes([number]) * 32), "")


def table(*reserved: int) -> LeaseTable:
    made = LeaseTable(range(1, 4), TIMES, 1)
    made.reserve(frozenset(reserved))
    return made


def test_nobody_gets_a_reserved_port_by_chance() -> None:
    leases = table(1, 2)
    assert leases.acquire(owner(1), 0.0, "").lease.port == 3
    with pytest.raises(RefusedError):
        leases.acquire(owner(2), 0.0, "")
    assert leases.acquire(owner(2), 0.0, "", wanted_port=1).lease.port == 1
    assert sum(leases.counts().values()) == 3


def test_a_reserved_port_has_no_quarantine() -> None:
    leases = table(1)
    grant = leases.acquire(owner(1), 0.0, "", wanted_port=1)
    leases.release(owner(1), grant.generation, 0.0)
    assert leases.acquire(owner(2), 1.0, "", wanted_port=1).lease.port == 1


def test_what_is_in_quarantine_when_it_is_reserved_is_free_for_its_new_owner() -> None:
    leases = table()
    grant = leases.acquire(owner(1), 0.0, "", wanted_port=1)
    leases.release(owner(1), grant.generation, 0.0)
    leases.reserve(frozenset({1}))
    assert leases.acquire(owner(1), 1.0, "").lease.port != 1
    assert leases.acquire(owner(2), 1.0, "", wanted_port=1).lease.port == 1


def test_under_pressure_a_reserved_port_is_not_taken_from_a_courtesy_lease() -> None:
    leases = table(1)
    for number, port in ((1, 1), (2, None), (3, None)):
        grant = leases.acquire(owner(number), float(number), "", wanted_port=port)
        leases.holding_ended(owner(number), grant.generation, float(number))
    late = 200.0  # beyond what was promised, within what is kept
    assert leases.acquire(owner(4), late, "").lease.port == 2
    assert sum(leases.counts().values()) == 3
    assert leases.acquire(owner(5), late, "", wanted_port=1).lease.port == 1


def test_no_longer_reserved_it_is_as_any_other() -> None:
    leases = table(1, 2, 3)
    with pytest.raises(RefusedError):
        leases.acquire(owner(1), 0.0, "")
    leases.reserve(frozenset())
    assert leases.acquire(owner(1), 0.0, "").lease.port in (1, 2, 3)


def test_a_reservation_outlives_a_restart() -> None:
    disk = Disk()
    first = Run(disk, range(1, 3), times=TIMES)
    first.lease(owner(1), wanted_port=1)
    first.stop()
    second = Run(disk, range(1, 3), wall=1e9 + 5000.0, times=TIMES)
    second.registry.reserve(frozenset({1, 2}))
    assert not second.registry.can_have(owner(9), 1), "its owner's lease has time left"
    assert second.registry.can_have(owner(9), 2)
    second.refusal(owner(2))


def test_what_is_reserved_before_the_start_is_reserved_from_the_start() -> None:
    class Reserving(LeaseRegistry):
        def startService(self) -> None:
            self.reserve(frozenset({1, 2}))
            super().startService()

    run = Run(Disk(), range(1, 3), registry_class=Reserving)
    run.refusal(owner(1))
