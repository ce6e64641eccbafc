"""The rules of leases against a naive model, and the promises one by one."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Grant, Identity, LeaseState, LeaseTimes, Owner
from proxyservice.leases.table import LeaseTable

TIMES = LeaseTimes(ttl=100.0, quarantine=10.0)
PORTS = range(7, 10)


def owner(number: int) -> Owner:
    return Owner(Identity(False, b"key", bytes((number,))), "")


class Model(RuleBasedStateMachine):
    """`held` knows each owner's port, generation, and when it may be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = LeaseTable(PORTS, TIMES, epoch=3)
        self.held: dict[Owner, tuple[int, int, float]] = {}
        self.newest = 0

    @rule(number=st.integers(0, 4))
    def acquire(self, number: int) -> None:
        who = owner(number)
        before = self.table.counts()
        try:
            grant = self.table.acquire(who, self.now, "source")
        except RefusedError as error:
            assert who not in self.held
            assert before["free"] == before["quarantined"] == 0
            assert error.retry_after_seconds >= 0
            assert self.table.counts() == before
            return
        assert grant.generation > self.newest
        assert grant.lease.port in PORTS
        if who in self.held:
            assert grant.lease.port == self.held[who][0]
            assert grant.displaced == (self.held[who][2] == inf)
        else:
            assert grant.fresh
            assert grant.lease.port not in {port for port, _, _ in self.held.values()}
        self.newest = grant.generation
        self.held[who] = (grant.lease.port, grant.generation, inf)

    @rule(number=st.integers(0, 4), stale=st.booleans())
    def leave(self, number: int, stale: bool) -> None:
        who = owner(number)
        port, generation, until = self.held.get(who, (0, 1, 0.0))
        ended = self.table.holding_ended(who, generation - stale, self.now)
        assert ended == (until == inf and not stale)
        if ended:
            self.held[who] = (port, generation, self.now + TIMES.ttl)

    @rule(seconds=st.sampled_from([1.0, 9.0, 50.0, 101.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.table.pass_time(self.now)
        expired = {ended.lease.owner for ended in self.table.take_changes().ended}
        assert expired == {who for who, held in self.held.items() if held[2] <= self.now}
        for who in expired:
            del self.held[who]

    @rule(number=st.integers(0, 4))
    def port_turns_out_busy(self, number: int) -> None:
        who = owner(number)
        if who not in self.held or self.held[who][2] != inf:
            return
        old, generation, until = self.held.pop(who)
        lease = self.table.of_owner(who)
        assert lease is not None
        try:
            self.table.move_from_busy(Grant(lease, generation, False, fresh=True), self.now)
        except RefusedError:
            assert self.table.of_owner(who) is None
            return
        assert lease.port != old
        self.held[who] = (lease.port, generation, until)

    @invariant()
    def the_sum_is_the_range(self) -> None:
        assert sum(self.table.counts().values()) == len(PORTS)

    @invariant()
    def both_directions_agree_with_the_model(self) -> None:
        assert {lease.owner: lease.port for lease in self.table} == {
            who: port for who, (port, _, _) in self.held.items()
        }
        for lease in self.table:
            assert self.table.at_port(lease.port) is lease
            assert (lease.state is LeaseState.LIVE) == (self.held[lease.owner][2] == inf)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_an_expired_port_is_quarantined_from_others_while_another_is_free() -> None:
    table = LeaseTable(range(1, 3), TIMES, 1)
    first = table.acquire(owner(1), 0.0, "")
    table.holding_ended(owner(1), first.generation, 0.0)
    table.pass_time(99.9)
    assert table.of_owner(owner(1)) is not None
    table.pass_time(100.0)
    assert table.of_owner(owner(1)) is None
    other = table.acquire(owner(2), 101.0, "")
    assert other.lease.port != first.lease.port
    assert table.acquire(owner(3), 102.0, "").lease.port == first.lease.port  # none else is left


def test_sixteen_ports_and_ten_thousand_requests() -> None:
    table = LeaseTable(range(100, 116), TIMES, 1)
    granted = 0
    for number in range(10_000):
        who = Owner(Identity(False, b"k", number.to_bytes(2, "big")), "")
        try:
            table.acquire(who, 0.0, "")
            granted += 1
        except RefusedError as error:
            assert str(error) == "no port is left"
    assert granted == 16


def test_what_was_not_stored_is_undone() -> None:
    table = LeaseTable(range(1, 2), TIMES, 1)
    grant = table.acquire(owner(1), 0.0, "")
    table.undo(grant, 0.0)
    assert table.counts()["free"] == 1


def test_a_later_epoch_outranks_every_generation_of_an_earlier_one() -> None:
    early, late = LeaseTable(PORTS, TIMES, 1), LeaseTable(PORTS, TIMES, 2)
    last = max(early.acquire(owner(1), 0.0, "").generation for _ in range(1000))
    assert late.acquire(owner(1), 0.0, "").generation > last


@pytest.mark.parametrize("proved", [False, True])
def test_claimed_and_proved_never_mix(proved: bool) -> None:
    table = LeaseTable(PORTS, TIMES, 1)
    one = table.acquire(Owner(Identity(proved, b"key"), ""), 0.0, "")
    other = table.acquire(Owner(Identity(not proved, b"key"), ""), 0.0, "")
    assert one.lease.port != other.lease.port
