"""An option never deletes a lease: what is outside the range is parked, and comes home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxyservice.leases.lease import Identity, LeaseTimes, Owner
from proxyservice.leases.reading import StoredLeases
from proxyservice.leases.store import LeaseStore, sqlite_url
from proxyservice.operator_cli import _cells
from proxyservice.wire import proxyservice_pb2 as pb
from tests.leases.harness import DISK_FULL, Disk, Run, on_disk, store_thread
from tests.leases.joined import claimed, proved
from tests.server.test_refusals import logged

TIMES = LeaseTimes(ttl=900.0, proved_ttl=9000.0, hold=0.0, quarantine=600.0)
USUAL, OTHER, THIRD = range(100, 110), range(200, 210), range(300, 310)
OWNERS = [proved(1), proved(2, "web"), claimed(3)]


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


class Restarts:
    """One store, and runs of a service on it that take two seconds each."""

    def __init__(self, store: Disk | None = None) -> None:
        self.disk = store or Disk()
        self.wall = 1e9

    def run(self, ports: range, times: LeaseTimes = TIMES) -> Run:
        self.wall += 1000
        return Run(self.disk, ports, wall=self.wall, times=times)


@pytest.fixture
def restarts() -> Restarts:
    made = Restarts()
    first = made.run(USUAL)
    for number, owner in enumerate(OWNERS):
        first.lease(owner, wanted_port=USUAL[number])
    first.stop()
    return made


def test_a_start_with_another_network_id_says_whose_leases_there_are(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "store")
    usual = Run(LeaseStore(url, 1), USUAL, times=TIMES)
    usual.lease(OWNERS[0])
    usual.stop()
    with logged() as text:
        Run(LeaseStore(url, 2), USUAL, times=TIMES).stop()
    assert "leases of network id 1 only, not of this relay's" in text.getvalue()
    with logged() as text:
        Run(LeaseStore(url, 1), USUAL, times=TIMES).stop()
    assert "network id" not in text.getvalue()


def test_one_start_with_another_range_loses_nothing(restarts: Restarts) -> None:
    wrong = restarts.run(OTHER)
    assert wrong.registry.parked == 3
    assert sum(wrong.registry.counts().values()) == len(OTHER), "parked ones are apart"
    wrong.stop()
    right = restarts.run(USUAL)
    assert right.registry.parked == 0
    assert [right.lease(owner).lease.port for owner in OWNERS] == list(USUAL[:3])


def test_the_start_says_it_in_one_line(restarts: Restarts) -> None:
    with logged() as text:
        restarts.run(OTHER)
    (line,) = (line for line in text.getvalue().splitlines() if "parked" in line)
    assert "leases parked: 3, whose ports (100-102) are outside --ports 200-209" in line
    with logged() as text:
        restarts.run(USUAL)
    assert "parked" not in text.getvalue()


def test_who_asks_meanwhile_gets_a_port_of_the_range_and_later_its_own_again(
    restarts: Restarts,
) -> None:
    wrong = restarts.run(OTHER)
    moved = wrong.lease(OWNERS[0])
    assert moved.lease.port in OTHER
    assert not moved.fresh, "it is the same lease"
    assert wrong.lease(OWNERS[0]).lease.port == moved.lease.port, "never another one while it runs"
    assert wrong.registry.parked == 2
    wrong.stop()
    right = restarts.run(USUAL)
    assert [right.lease(owner).lease.port for owner in OWNERS] == list(USUAL[:3])
    assert right.lease(proved(9)).lease.port not in USUAL[:3]


def test_it_may_ask_for_a_port_of_the_range_but_not_for_the_one_outside(restarts: Restarts) -> None:
    wrong = restarts.run(OTHER)
    refused = wrong.refusal(OWNERS[0], wanted_port=100)
    assert refused.code == pb.REFUSAL_ADDRESS_UNAVAILABLE
    assert "100 is not in 200-209" in refused.reason
    assert wrong.lease(OWNERS[0], wanted_port=207).lease.port == 207


def test_it_costs_its_owner_no_quota(restarts: Restarts) -> None:
    from proxyservice.leases.lease import LeaseQuota

    wrong = restarts.run(OTHER)
    assert wrong.lease(OWNERS[0], limits=LeaseQuota(1, 1, 1)).lease.port in OTHER


def test_over_several_ranges_the_first_port_counts_then_the_later_ones(restarts: Restarts) -> None:
    owner = OWNERS[0]
    second = restarts.run(OTHER).lease(owner).lease.port
    third = restarts.run(THIRD).lease(owner).lease.port
    assert restarts.run(THIRD).lease(owner).lease.port == third
    again = restarts.run(range(200, 310))
    assert again.lease(owner).lease.port == second, "both are in the range: the older one"
    assert restarts.run(range(100, 310)).lease(owner).lease.port == 100


def test_a_port_outside_the_range_is_nobody_elses_when_the_range_comes_back(
    restarts: Restarts,
) -> None:
    restarts.run(OTHER)
    right = restarts.run(range(100, 103))
    right.refusal(proved(9))
    assert right.lease(OWNERS[1]).lease.port == 101


def test_parked_leases_end_in_their_time_and_leave_a_quarantine(restarts: Restarts) -> None:
    wrong = restarts.run(OTHER)
    wrong.pass_time(1300, step=10)
    assert wrong.registry.parked == 2, "the claimed one had 900 s and a third"
    wrong.stop()
    right = restarts.run(USUAL)
    assert right.registry.counts()["remembered"] == 2
    assert right.registry.counts()["quarantined"] == 1
    assert right.lease(OWNERS[2]).lease.port == 102, "kept for it"


def test_a_quarantine_outside_the_range_goes_on(restarts: Restarts) -> None:
    first = restarts.run(USUAL)
    grant = first.lease(OWNERS[0])
    first.registry.release(OWNERS[0], grant.generation)
    first.stop()
    restarts.run(OTHER).stop()
    right = restarts.run(USUAL)
    assert right.lease(proved(9)).lease.port != 100
    assert right.lease(OWNERS[0]).lease.port == 100


def test_the_operator_can_revoke_a_parked_lease(restarts: Restarts) -> None:
    wrong = restarts.run(OTHER)
    assert wrong.registry.revoke(OWNERS[0].__eq__) == 1
    wrong.stop()
    right = restarts.run(USUAL)
    assert right.port_of(OWNERS[0]) is None
    assert right.registry.counts()["remembered"] == 2


def test_what_cannot_be_stored_is_parked_again(restarts: Restarts) -> None:
    wrong = restarts.run(OTHER)
    restarts.disk.error = DISK_FULL
    wrong.refusal(OWNERS[0])
    wrong.refusal(OWNERS[0])
    assert wrong.registry.parked == 3
    assert wrong.sockets.bound == set()
    restarts.disk.error = None
    wrong.pass_time(6)
    assert wrong.lease(OWNERS[0]).lease.port in OTHER


def test_busy_ports_of_the_new_range_are_passed_over(restarts: Restarts) -> None:
    restarts.wall += 1
    wrong = Run(restarts.disk, OTHER, wall=restarts.wall, busy={200, 201}, times=TIMES)
    assert wrong.lease(OWNERS[0]).lease.port == 202
    full = Run(Disk(), OTHER, busy=set(OTHER), times=TIMES)
    full.refusal(OWNERS[0])


def test_with_no_port_that_can_be_bound_it_stays_parked(restarts: Restarts) -> None:
    wrong = Run(restarts.disk, OTHER, wall=1e9 + 9, busy=set(OTHER), times=TIMES)
    assert wrong.refusal(OWNERS[0]).code == pb.REFUSAL_EXHAUSTED
    assert wrong.registry.parked == 3
    wrong.stop()
    assert restarts.run(USUAL).lease(OWNERS[0]).lease.port == 100


@pytest.mark.parametrize("times", [LeaseTimes(ttl=1.0, proved_ttl=1.0, quarantine=1.0)])
def test_shorter_times_hold_for_what_comes_not_for_what_was_promised(
    restarts: Restarts, times: LeaseTimes
) -> None:
    """`--lease-ttl` and `--proved-ttl` of one start end no lease of an earlier one."""
    short = restarts.run(USUAL, times)
    short.pass_time(60)
    assert short.registry.counts()["remembered"] == 3
    short.stop()
    right = restarts.run(USUAL)
    right.pass_time(700, step=10)
    assert right.registry.counts()["remembered"] == 3


def test_the_operator_sees_what_is_parked(tmp_path: Path) -> None:
    path = tmp_path / "leases.sqlite"
    first = Run(on_disk(path), USUAL)
    first.lease(OWNERS[0])
    first.stop()
    wrong = Run(on_disk(path), OTHER, wall=1e9 + 50)
    with closing(StoredLeases(sqlite_url(path), 1)) as stored:
        heartbeat, (row,) = stored.listing()
    assert _cells(row, heartbeat)[:2] == ("100", "parked")
    port = wrong.lease(OWNERS[0]).lease.port
    wrong.stop()
    with closing(StoredLeases(sqlite_url(path), 1)) as stored:
        left, row = stored.listing()[1]
        past = stored.holder_at(100, 1e9 + 20)
    assert (left.port, left.state, left.owner) == (100, "quarantined", OWNERS[0])
    assert (row.port, row.homes) == (port, (100,))
    assert past is not None
    assert past.owner == OWNERS[0]
    run = Run(on_disk(path), USUAL, wall=1e9 + 90)
    assert run.lease(Owner(Identity(True, OWNERS[0].identity.net_key), "")).lease.port == 100
    run.stop()
