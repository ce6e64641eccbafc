"""Ports that are given by their number alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Identity, Lease, LeaseQuota, LeaseTimes, Owner
from proxyservice.leases.reading import StoredLeases
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.store import sqlite_url
from proxyservice.leases.table import LeaseTable
from proxyservice.operator_cli import _cells, _row_fields
from tests.leases.harness import Disk, Run, on_disk, store_thread

TIMES = LeaseTimes(ttl=100.0, proved_ttl=1000.0, quarantine=50.0)


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


def owner(number: int) -> Owner:
    return Owner(Identity(True, bytes([number]) * 32), "")


def table(*reserved: int) -> LeaseTable:
    made = LeaseTable(range(1, 4), TIMES, 1)
    made.reserve(frozenset(reserved), 0.0)
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
    leases.reserve(frozenset({1}), 0.0)
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
    assert leases.acquire(owner(5), late, "").lease.port == 3
    with pytest.raises(RefusedError):
        leases.acquire(owner(6), late, "")
    lease = leases.of_owner(owner(1))
    assert lease is not None, "its end would give nobody a port"
    assert lease.port == 1


def test_no_longer_reserved_it_is_as_any_other() -> None:
    leases = table(1, 2, 3)
    with pytest.raises(RefusedError):
        leases.acquire(owner(1), 0.0, "")
    leases.reserve(frozenset(), 0.0)
    assert leases.acquire(owner(1), 0.0, "").lease.port in (1, 2, 3)


def test_a_reservation_outlives_a_restart() -> None:
    disk = Disk()
    first = Run(disk, range(1, 3), times=TIMES)
    first.lease(owner(1), wanted_port=1)
    first.stop()
    second = Run(disk, range(1, 3), wall=1e9 + 5000.0, times=TIMES)
    second.registry.reserve(frozenset({1, 2}))
    second.refusal(owner(2))
    second.refusal(owner(9), wanted_port=1)  # its owner's lease has time left
    assert second.lease(owner(9), wanted_port=2).lease.port == 2


def test_what_is_reserved_before_the_start_is_reserved_from_the_start() -> None:
    class Reserving(LeaseRegistry):
        def startService(self) -> None:
            self.reserve(frozenset({1, 2}))
            super().startService()

    run = Run(Disk(), range(1, 3), registry_class=Reserving)
    run.refusal(owner(1))


# ------------------------------------------------------------------ leases that never expire


def first_owners(lease: Lease) -> bool:
    return lease.owner == owner(1)


def remembered_on(*ports: int) -> LeaseTable:
    """Port by port a lease of owner 1, 2, ..., whose nodes went at 0 s; all ports are reserved."""
    leases = LeaseTable(range(1, 4), TIMES, 1)
    leases.reserve(frozenset(ports), 0.0, first_owners)
    for number, port in enumerate(ports, 1):
        grant = leases.acquire(owner(number), 0.0, "", wanted_port=port)
        leases.holding_ended(owner(number), grant.generation, 0.0)
    return leases


def test_a_lease_on_a_port_of_its_own_never_expires() -> None:
    leases = remembered_on(1, 2)
    leases.pass_time(1e9)
    assert leases.of_owner(owner(1)) is not None
    assert leases.of_owner(owner(2)) is None, "it has a port that is somebody else's"
    assert leases.acquire(owner(1), 1e9, "").lease.port == 1


def test_when_the_port_is_its_own_no_longer_it_expires_as_any_other_from_then_on() -> None:
    leases = remembered_on(1)
    leases.pass_time(5000.0)
    leases.reserve(frozenset(), 5000.0)
    leases.pass_time(5999.0)
    assert leases.of_owner(owner(1)) is not None
    leases.pass_time(6000.0)
    assert leases.of_owner(owner(1)) is None


def test_a_remembered_lease_whose_port_becomes_its_own_stays() -> None:
    leases = table()
    grant = leases.acquire(owner(1), 0.0, "", wanted_port=1)
    leases.holding_ended(owner(1), grant.generation, 0.0)
    leases.reserve(frozenset({1}), 10.0, first_owners)
    leases.pass_time(1e9)
    assert leases.of_owner(owner(1)) is not None


def test_a_held_lease_is_still_unheld_in_time() -> None:
    leases = LeaseTable(range(1, 4), replace(TIMES, hold=20.0), 1)
    grant = leases.acquire(owner(1), 0.0, "", wanted_port=1)
    leases.holding_ended(owner(1), grant.generation, 0.0, hold=True)
    leases.reserve(frozenset({1}), 10.0, first_owners)
    assert leases.counts()["held"] == 1
    leases.pass_time(20.0)
    assert leases.counts()["remembered"] == 1


def test_a_quota_does_not_release_it() -> None:
    leases = LeaseTable(range(1, 5), TIMES, 1)
    leases.reserve(frozenset({1}), 0.0, lambda lease: lease.port == 1)
    limits = LeaseQuota(per_key=2, per_source=9)
    identity = Identity(True, bytes(32))
    for at, origin, port in ((0.0, "own", 1), (0.0, "other", None), (100.0, "third", None)):
        which = Owner(identity, origin)
        grant = leases.acquire(which, at, "", wanted_port=port, limits=limits)
        leases.holding_ended(which, grant.generation, at)
    assert [lease.owner.origin for lease in leases] == ["own", "third"]
    leases.acquire(Owner(identity, "third"), 100.0, "")
    with pytest.raises(RefusedError, match="this key has 1 leases"):
        leases.acquire(Owner(identity, "fourth"), 100.0, "", limits=LeaseQuota(1, 9))


def test_it_outlives_restarts_on_disk_too(tmp_path: Path) -> None:
    """The store keeps a time without end; who reads it for the operator sees no number."""
    wall = 1e9
    for _ in range(3):
        run = Run(on_disk(tmp_path / "leases.sqlite"), range(1, 4), wall=wall, times=TIMES)
        run.registry.reserve(frozenset({1}), first_owners)
        assert run.lease(owner(1), wanted_port=1).lease.port == 1
        run.stop()
        wall += 1e6
    run = Run(on_disk(tmp_path / "leases.sqlite"), range(1, 4), wall=wall, times=TIMES)
    run.registry.reserve(frozenset({1}), first_owners)
    run.pass_time(20_000, step=1000)
    assert run.port_of(owner(1)) == 1
    run.stop()
    stored = StoredLeases(sqlite_url(tmp_path / "leases.sqlite"), 1)
    heartbeat, rows = stored.listing()
    stored.close()
    assert [row.expires for row in rows] == [inf]
    assert _cells(rows[0], heartbeat)[-1] == "-"
    assert _row_fields(rows[0], heartbeat)["left_seconds"] is None
