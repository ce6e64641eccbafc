"""The promises of leases one by one, and the small parts that they are made of."""

from __future__ import annotations

import random

import pytest

from proxyservice.errors import RefusedError
from proxyservice.leases.due import DueTimes
from proxyservice.leases.lease import Identity, LeaseQuota, LeaseTimes, Owner
from proxyservice.leases.quota import counted_source
from proxyservice.leases.table import LeaseTable
from proxyservice.wire import proxyservice_pb2 as pb
from tests.leases.joined import claimed, proved

TIMES = LeaseTimes(ttl=100.0, proved_ttl=1000.0, quarantine=10.0)
PORTS = range(7, 10)
ALICE, BOB, CAROL = claimed(1), claimed(2), claimed(3)


def test_defaults_are_those_of_the_design() -> None:
    assert LeaseTimes() == LeaseTimes(10_800.0, 2_592_000.0, 0.0, 600.0)
    assert LeaseQuota() == LeaseQuota(8, 64, 8)


def test_an_expired_port_is_quarantined_from_others_while_another_is_free() -> None:
    table = LeaseTable(range(1, 3), TIMES, 1)
    first = table.acquire(ALICE, 0.0, "")
    table.holding_ended(ALICE, first.generation, 0.0)
    table.pass_time(99.9)
    assert table.of_owner(ALICE) is not None
    table.pass_time(100.0)
    assert table.of_owner(ALICE) is None
    other = table.acquire(BOB, 101.0, "")
    assert other.lease.port != first.lease.port
    assert table.acquire(CAROL, 102.0, "").lease.port == first.lease.port  # none else is left


def test_a_lease_that_is_due_does_not_come_back_without_a_new_grant() -> None:
    table = LeaseTable(PORTS, TIMES, 1)
    first = table.acquire(ALICE, 0.0, "")
    table.holding_ended(ALICE, first.generation, 0.0)
    again = table.acquire(ALICE, 100.0, "")  # before anybody let time pass
    assert again.fresh
    assert again.lease.port == first.lease.port, "in quarantine for others only"


def test_of_many_leases_that_are_due_a_bounded_number_ends_at_once() -> None:
    table = LeaseTable(range(1, 601), TIMES, 1)
    for number in range(600):
        owner = claimed(number % 250, str(number))
        table.holding_ended(owner, table.acquire(owner, 0.0, "").generation, 0.0)
    assert table.pass_time(100.0)
    assert table.counts()["remembered"] == 600 - 256
    overdue = claimed(599 % 250, "599")
    assert table.of_owner(overdue) is not None
    assert table.acquire(overdue, 100.0, "").fresh, "it is over, though it was not its turn"
    assert not table.pass_time(100.0)
    assert table.counts()["remembered"] == 0


def test_a_later_epoch_outranks_every_generation_of_an_earlier_one() -> None:
    early, late = LeaseTable(PORTS, TIMES, 1), LeaseTable(PORTS, TIMES, 2)
    last = max(early.acquire(ALICE, 0.0, "").generation for _ in range(1000))
    assert late.acquire(ALICE, 0.0, "").generation > last


def test_claimed_and_proved_never_mix() -> None:
    table = LeaseTable(PORTS, TIMES, 1)
    key = proved(1).identity.net_key
    same = Owner(Identity(False, key), "")
    assert table.acquire(proved(1), 0.0, "").lease.port != table.acquire(same, 0.0, "").lease.port


def test_a_claimed_key_cannot_use_up_somebody_elses_quota() -> None:
    table = LeaseTable(range(1, 20), TIMES, 1)
    for number in range(8):  # all state the same net_key, each another connection_id
        table.acquire(claimed(number), 0.0, f"192.0.2.{number}", limits=LeaseQuota(per_key=1))
    assert len(table) == 8


def test_a_returning_node_is_counted_for_its_new_source_only_where_there_is_room() -> None:
    table = LeaseTable(range(1, 20), TIMES, 1)
    limits = LeaseQuota(per_source=1)
    table.acquire(ALICE, 0.0, "192.0.2.1", limits=limits)
    table.acquire(BOB, 0.0, "192.0.2.2", limits=limits)
    lease = table.acquire(ALICE, 0.0, "192.0.2.2", limits=limits).lease
    assert (lease.source, lease.charged_to) == ("192.0.2.2", "192.0.2.1")
    with pytest.raises(RefusedError) as caught:
        table.acquire(CAROL, 0.0, "192.0.2.1", limits=limits)
    assert caught.value.code == pb.REFUSAL_QUOTA
    lease = table.acquire(ALICE, 0.0, "192.0.2.3", limits=limits).lease
    assert lease.charged_to == "192.0.2.3"
    assert table.acquire(CAROL, 0.0, "192.0.2.1", limits=limits).fresh


def test_without_limits_a_trusted_source_has_as_many_as_it_asks_for() -> None:
    table = LeaseTable(range(1, 101), TIMES, 1)
    for number in range(100):
        table.acquire(claimed(number), 0.0, "127.0.0.1")
    assert table.leased_by.of_source("127.0.0.1", proved=False) == 100


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("2001:db8:1:2ff::1", "2001:db8:1:200::/56"),
        ("2001:db8:1:200:ffff::", "2001:db8:1:200::/56"),
        ("2001:db8:1:300::1", "2001:db8:1:300::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("::1", "::/56"),
        ("/run/socket", "/run/socket"),
        ("", ""),
    ],
)
def test_counted_source(host: str, source: str) -> None:
    assert counted_source(host) == source


# ------------------------------------------------------------------ due times


def test_due_times_stay_small_and_come_in_order() -> None:
    due, expected, pick = DueTimes(), {}, random.Random(7)
    for _ in range(20_000):
        port, at = pick.randrange(50), float(pick.randrange(1000))
        if pick.random() < 0.2:
            assert due.discard(port) == (expected.pop(port, None) is not None)
        else:
            due.set(port, at)
            expected[port] = at
        assert len(due._heap) <= 2 * len(due) + 64
    assert len(due) == len(expected)
    taken = list(due.take_due(500.0))
    assert sorted(taken) == sorted(port for port, at in expected.items() if at <= 500.0)
    assert [expected[port] for port in taken] == sorted(expected[port] for port in taken)
    assert all((port in due) == (at > 500.0) for port, at in expected.items())


def test_equal_due_times_keep_the_order_of_their_coming() -> None:
    due = DueTimes()
    for port in (3, 1, 2):
        due.set(port, 5.0)
    assert list(due.take_due(5.0)) == [3, 1, 2]
