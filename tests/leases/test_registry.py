"""Registry and store together: what survives, what is bound, who is told; on a fake clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxyservice.errors import RefusedError, StoreError
from proxyservice.leases.commits import RETRY_SECONDS
from proxyservice.leases.lease import LeaseQuota, LeaseTimes
from proxyservice.leases.reading import StoredLeases
from proxyservice.leases.record import HEARTBEAT_SECONDS
from proxyservice.leases.registry import TICK_SECONDS
from proxyservice.leases.store import sqlite_url
from proxyservice.leases.table import LONGEST_FULL_RETRY_SECONDS
from proxyservice.units import format_duration
from proxyservice.wire import proxyservice_pb2 as pb
from tests.leases.harness import (
    DISK_FULL,
    TIMES,
    Disk,
    Node,
    Run,
    StoreThread,
    on_disk,
    outcome,
    result,
    store_thread,
)
from tests.leases.joined import claimed, proved

ALICE, BOB, CAROL = claimed(1), claimed(2), claimed(3)


@pytest.fixture(autouse=True)
def thread() -> Iterator[StoreThread]:
    with store_thread() as thread:
        yield thread


@pytest.fixture
def run() -> Run:
    return Run(Disk(), range(1, 4))


# ------------------------------------------------------------- what survives


@pytest.mark.parametrize("wall", [2e9, 1e9 + 5 * 86400, 1e9 - 5 * 86400])
def test_neither_downtime_nor_a_new_clock_costs_an_address(tmp_path: Path, wall: float) -> None:
    first = Run(on_disk(tmp_path / "db"), range(1, 9))
    grants = {owner: first.lease(owner) for owner in (ALICE, BOB, CAROL)}
    first.registry.holding_ended(BOB, grants[BOB].generation)
    first.stop()
    second = Run(on_disk(tmp_path / "db"), range(1, 9), wall)
    for owner, grant in grants.items():
        assert second.port_of(owner) == grant.lease.port
    again = second.lease(CAROL)
    assert again.lease.port == grants[CAROL].lease.port
    assert again.generation > grants[CAROL].generation
    second.stop()


def test_a_crash_shortens_nothing(tmp_path: Path) -> None:
    first = Run(on_disk(tmp_path / "db"), range(1, 9))
    grant = first.lease(ALICE)
    first.pass_time(4000)  # over an hour, no end of the run
    first.store.close()
    second = Run(on_disk(tmp_path / "db"), range(1, 9), 1e9 + 1e6)
    second.pass_time(TIMES.ttl - 1)
    assert second.port_of(ALICE) == grant.lease.port
    second.pass_time(2 * TIMES.ttl / 3)
    assert second.port_of(ALICE) is None
    assert second.registry.counts()["quarantined"] == 1
    second.stop()


def test_a_replaced_service_grants_nothing_not_even_what_it_had(tmp_path: Path) -> None:
    first = Run(on_disk(tmp_path / "db"), range(1, 9))
    granted = first.lease(proved(1))
    second = Run(on_disk(tmp_path / "db"), range(1, 9))
    assert "cannot be stored" in str(first.refusal(proved(1))), "though it was on disk"
    assert "cannot be stored" in str(first.refusal(proved(2)))
    assert second.lease(proved(1)).lease.port == granted.lease.port
    first.stop()
    second.stop()


def test_a_wall_clock_that_jumps_ends_nothing_early_and_nothing_late(tmp_path: Path) -> None:
    run = Run(on_disk(tmp_path / "db"), range(1, 9))
    grant = run.lease(ALICE)
    run.registry.holding_ended(ALICE, grant.generation)
    run.wall_offset += 86400
    run.pass_time(TIMES.ttl - 1)
    assert run.port_of(ALICE) == grant.lease.port
    run.wall_offset -= 2 * 86400
    run.pass_time(1)
    assert run.port_of(ALICE) is None
    run.stop()


def test_quarantine_survives_a_restart_and_keeps_the_port_for_its_former_owner(
    tmp_path: Path,
) -> None:
    first = Run(on_disk(tmp_path / "db"), range(1, 3))
    grant = first.lease(ALICE)
    result(first.registry.release(ALICE, grant.generation))
    first.stop()
    second = Run(on_disk(tmp_path / "db"), range(1, 3))
    assert second.registry.counts()["quarantined"] == 1
    assert second.lease(BOB).lease.port != grant.lease.port
    assert second.lease(ALICE).lease.port == grant.lease.port
    second.stop()


def test_a_lease_that_ends_just_before_its_service_leaves_its_port_in_quarantine(
    tmp_path: Path,
) -> None:
    """Between the last tick and the last heartbeat: its row says that it is over already."""
    first = Run(on_disk(tmp_path / "db"), range(1, 3))
    grant = first.lease(ALICE)
    first.clock.advance(0.5)
    first.registry.holding_ended(ALICE, grant.generation)
    first.clock.advance(0.5)
    first.pass_time(TIMES.ttl - 1)
    first.clock.advance(0.75)
    assert first.port_of(ALICE) == grant.lease.port, "nobody has noticed"
    first.stop()
    second = Run(on_disk(tmp_path / "db"), range(1, 3))
    assert second.port_of(ALICE) is None
    assert second.registry.counts()["quarantined"] == 1
    assert second.lease(BOB).lease.port != grant.lease.port
    second.pass_time(TIMES.quarantine - 1)
    assert second.registry.counts()["quarantined"] == 1
    second.pass_time(1)
    assert second.registry.counts()["free"] == 1, "0.25 s of it had passed before"
    second.stop()
    with closing(StoredLeases(sqlite_url(tmp_path / "db"), 1)) as stored:
        past = stored.holder_at(grant.lease.port, 1e9)
    assert past is not None
    assert past.outcome == "expired"


def test_a_lease_outside_a_changed_range_is_parked_and_comes_back(tmp_path: Path) -> None:
    first = Run(on_disk(tmp_path / "db"), range(1, 3))
    grant = first.lease(ALICE)
    first.pass_time(10)
    first.stop()
    second = Run(on_disk(tmp_path / "db"), range(5, 7), wall=1e9 + 100)
    assert second.lease(ALICE).lease.port in range(5, 7)
    second.stop()
    reading = StoredLeases(sqlite_url(tmp_path / "db"), 1)
    past = reading.holder_at(grant.lease.port, 1e9 + 5)
    reading.close()
    assert past is not None
    assert (past.owner, past.until, past.outcome) == (ALICE, 1e9 + 100, "moved")
    third = Run(on_disk(tmp_path / "db"), range(1, 3), wall=1e9 + 200)
    assert third.port_of(ALICE) == grant.lease.port, "back where it was"
    assert third.lease(ALICE).lease.port == grant.lease.port
    third.stop()


# ---------------------------------------------------------------------- ports


def test_t6_half_of_the_range_is_busy() -> None:
    run = Run(Disk(), range(1, 10_001), busy=set(range(1, 5001)))
    got = outcome(run.registry.acquire(ALICE, Node(), "192.0.2.1"))
    while not got:
        run.clock.advance(0)
    assert got[0].lease.port == 5001
    assert run.sockets.bound == {5001}
    assert run.registry.counts() == {
        "free": 4999, "live": 1, "held": 0, "remembered": 0, "quarantined": 0, "busy": 5000,
    }  # fmt: skip


def test_a_busy_port_of_somebody_is_kept_from_others_when_it_is_free_again() -> None:
    run = Run(Disk(), range(1, 4))
    grant = run.lease(ALICE)
    old = grant.lease.port
    run.registry.holding_ended(ALICE, grant.generation)
    run.sockets.busy = {old}
    moved = run.lease(ALICE)
    assert moved.lease.port != old
    run.sockets.busy.clear()
    run.pass_time(61)
    assert run.registry.counts()["quarantined"] == 1
    assert run.lease(BOB).lease.port not in (old, moved.lease.port)


def test_when_every_port_is_busy_a_lease_waits_for_its_own() -> None:
    run = Run(Disk(), range(1, 2))
    grant = run.lease(ALICE)
    run.registry.holding_ended(ALICE, grant.generation)
    run.sockets.busy = {1}
    assert run.refusal(ALICE).code == pb.REFUSAL_EXHAUSTED
    assert run.refusal(BOB).code == pb.REFUSAL_EXHAUSTED
    run.sockets.busy.clear()
    assert run.lease(ALICE).lease.port == 1


def test_a_wanted_port(run: Run) -> None:
    node = Node()
    assert run.lease(ALICE, node, wanted_port=3).lease.port == 3
    assert run.refusal(BOB, wanted_port=3).code == pb.REFUSAL_ADDRESS_UNAVAILABLE
    assert run.refusal(BOB, wanted_port=4).code == pb.REFUSAL_ADDRESS_UNAVAILABLE
    assert run.sockets.bound == {3}
    assert node.losses == []


def test_moving_to_a_wanted_port_quarantines_the_old_one(run: Run) -> None:
    node = Node()
    first = run.lease(ALICE, node)
    old, generation = first.lease.port, first.generation
    assert run.lease(ALICE, node, wanted_port=3).moved_from == old
    assert node.losses == [(old, generation, "moved")]
    assert run.sockets.bound == {3}
    assert run.refusal(BOB, wanted_port=old).code == pb.REFUSAL_ADDRESS_UNAVAILABLE
    assert run.lease(ALICE, node, wanted_port=old).lease.port == old


def test_a_wanted_port_that_cannot_be_bound_leaves_the_lease_where_it_is(run: Run) -> None:
    node = Node()
    grant = run.lease(ALICE, node)
    run.sockets.busy = {3}
    assert run.refusal(ALICE, node=node, wanted_port=3).code == pb.REFUSAL_ADDRESS_UNAVAILABLE
    assert run.registry.visited(grant.lease.port) == (grant.lease, node)
    assert node.losses == []
    run.sockets.busy.clear()
    assert run.refusal(ALICE, wanted_port=3).code == pb.REFUSAL_ADDRESS_UNAVAILABLE
    run.pass_time(61)
    assert run.lease(ALICE, wanted_port=3).lease.port == 3


def test_a_wanted_port_beyond_the_quota_is_not_left_bound(run: Run) -> None:
    run.lease(ALICE)
    refused = run.refusal(BOB, wanted_port=3, limits=LeaseQuota(per_source=1))
    assert refused.code == pb.REFUSAL_QUOTA
    assert run.sockets.bound == {run.port_of(ALICE)}


def test_at_the_quota_the_oldest_remembered_lease_is_released(run: Run) -> None:
    limits = LeaseQuota(per_key=8, per_source=2)
    first, second = run.lease(ALICE, limits=limits), run.lease(BOB, limits=limits)
    assert run.refusal(CAROL, limits=limits).code == pb.REFUSAL_QUOTA
    run.registry.holding_ended(BOB, second.generation)
    run.registry.holding_ended(ALICE, first.generation)
    grant = run.lease(CAROL, limits=limits)
    assert (run.port_of(BOB), run.port_of(ALICE)) == (None, first.lease.port)
    assert grant.lease.port != second.lease.port, "that one is in quarantine"
    assert run.refusal(CAROL, wanted_port=second.lease.port)


def test_a_proved_lease_beyond_its_promise_goes_only_when_nothing_else_is_left() -> None:
    run = Run(Disk(), range(1, 3))
    for owner in (proved(1), proved(2)):
        grant = run.lease(owner)
        run.registry.holding_ended(owner, grant.generation)
        run.pass_time(1)
    assert run.refusal(ALICE).code == pb.REFUSAL_EXHAUSTED
    refused = run.refusal(ALICE)
    assert f"one may be free in {format_duration(TIMES.ttl - 2)}" in str(refused)
    assert refused.retry_after_seconds == LONGEST_FULL_RETRY_SECONDS
    run.pass_time(TIMES.ttl - 12)
    assert run.refusal(ALICE).retry_after_seconds == pytest.approx(10.0)
    run.pass_time(12)
    assert run.port_of(proved(1)) == 1
    assert run.lease(ALICE).lease.port == 1, "the one least recently heard goes first"
    assert run.port_of(proved(1)) is None
    assert run.port_of(proved(2)) == 2


# -------------------------------------------------------------------- holders


def test_takeover_tells_the_older_holder_and_its_late_end_changes_nothing(run: Run) -> None:
    old, new = Node(), Node()
    first = run.lease(ALICE, old)
    second = run.lease(ALICE, new)
    assert old.losses == [(first.lease.port, first.generation, "taken_over")]
    run.registry.holding_ended(ALICE, first.generation)
    result(run.registry.release(ALICE, first.generation))
    assert run.sockets.bound == {second.lease.port}
    assert run.registry.visited(second.lease.port) == (second.lease, new)
    assert new.losses == []


def test_a_held_port_stays_bound_until_the_hold_is_over() -> None:
    run = Run(Disk(), range(1, 4), times=LeaseTimes(ttl=100.0, hold=10.0))
    grant = run.lease(ALICE)
    run.registry.holding_ended(ALICE, grant.generation, hold=True)
    assert run.sockets.bound == {grant.lease.port}
    assert run.registry.visited(grant.lease.port) == (grant.lease, None)
    run.pass_time(10)
    assert run.registry.counts()["remembered"] == 1
    assert run.sockets.bound == set()
    assert run.registry.visited(grant.lease.port) is None
    run.pass_time(89)
    assert run.port_of(ALICE) is not None, "100 s count from the end of the connection"
    run.pass_time(1)
    assert run.port_of(ALICE) is None


@pytest.mark.parametrize("wanted", [None, 1, 3])
def test_a_refused_request_after_the_hold_closes_the_held_port(wanted: int | None) -> None:
    """Before the next tick, whatever the request was refused for."""
    run = Run(Disk(), range(1, 3), times=LeaseTimes(ttl=100.0, hold=10.0))
    run.clock.advance(0.5)
    grant = run.lease(ALICE)
    run.lease(BOB)
    run.registry.holding_ended(ALICE, grant.generation, hold=True)
    run.clock.advance(0.5)
    run.pass_time(9)
    assert run.sockets.bound == {1, 2}
    run.clock.advance(0.75)
    assert run.refusal(CAROL, wanted_port=wanted)
    assert run.sockets.bound == {2}


def test_a_node_that_is_back_within_the_hold_is_not_unbound_later() -> None:
    run = Run(Disk(), range(1, 4), times=LeaseTimes(ttl=100.0, hold=10.0))
    grant, node = run.lease(ALICE), Node()
    run.registry.holding_ended(ALICE, grant.generation, hold=True)
    run.pass_time(5)
    again = run.lease(ALICE, node)
    run.pass_time(200)
    assert run.registry.visited(again.lease.port) == (again.lease, node)
    assert run.sockets.bound == {again.lease.port}


def test_release_unbinds_at_once_and_fires_when_it_is_on_disk(
    run: Run, thread: StoreThread
) -> None:
    node = Node()
    grant = run.lease(ALICE, node)
    thread.waits = True
    released = outcome(run.registry.release(ALICE, grant.generation))
    assert run.sockets.bound == set()
    assert node.outcomes == ["released"]
    assert released == []
    thread.turn()
    assert released == [None]
    assert run.registry.counts()["quarantined"] == 1


def test_revoked_leases_end_and_their_ports_are_kept_for_nobody(run: Run) -> None:
    node = Node()
    grant = run.lease(proved(1), node)
    run.lease(ALICE)
    assert run.registry.revoke(lambda owner: owner.identity.proved) == 1
    assert node.losses == [(grant.lease.port, grant.generation, "revoked")]
    assert run.sockets.bound == {run.port_of(ALICE)}
    assert run.lease(proved(1)).lease.port != grant.lease.port


def test_what_is_revoked_before_its_commit_is_not_announced(run: Run, thread: StoreThread) -> None:
    thread.waits = True
    node = Node()
    got = outcome(run.registry.acquire(ALICE, node, "192.0.2.1"))
    assert run.registry.revoke(lambda owner: True) == 1
    thread.all_turns()
    assert got[0].value.code == pb.REFUSAL_DENIED
    assert node.outcomes == ["revoked"]


def test_of_two_requests_at_once_the_newer_wins(run: Run, thread: StoreThread) -> None:
    thread.waits = True
    older = outcome(run.registry.acquire(ALICE, Node(), "192.0.2.1"))
    newer = outcome(run.registry.acquire(ALICE, Node(), "192.0.2.1"))
    thread.all_turns()
    assert older[0].value.code == pb.REFUSAL_SUPERSEDED
    assert newer[0].generation == newer[0].lease.generation


# ------------------------------------------------------ a store that fails


def test_acknowledged_only_after_the_commit_and_refused_when_it_fails(
    run: Run, thread: StoreThread
) -> None:
    thread.waits = True
    got = [outcome(run.registry.acquire(owner, Node(), "192.0.2.1")) for owner in (ALICE, BOB)]
    assert got == [[], []]
    assert len(thread.queue) == 1, "the second waits for the next group"
    thread.turn()
    assert [len(one) for one in got] == [1, 0]
    thread.turn(DISK_FULL)
    assert got[1][0].value.code == pb.REFUSAL_EXHAUSTED
    assert run.port_of(BOB) is None
    assert run.sockets.bound == {got[0][0].lease.port}


@pytest.mark.parametrize("error", [DISK_FULL, OSError(28, "No space left on device")])
def test_t22_a_full_disk_ends_nothing_and_new_leases_are_refused_until_it_is_not(
    run: Run, error: Exception
) -> None:
    grant, disk = run.lease(ALICE), run.store
    disk.error = error
    assert run.refusal(BOB).code == pb.REFUSAL_EXHAUSTED
    writes = disk.writes
    for _ in range(50):
        refused = run.refusal(CAROL)
        assert (refused.code, refused.retry_after_seconds) == (pb.REFUSAL_EXHAUSTED, RETRY_SECONDS)
    assert disk.writes == writes, "what is known to fail is not tried for each request"
    again = run.lease(ALICE)
    assert again.lease.port == grant.lease.port, "what is on disk is served"
    run.pass_time(10 * RETRY_SECONDS)
    assert writes < disk.writes <= writes + 10, "tried again, with a rest between"
    assert run.registry.store_failures == disk.writes - 2  # the start's and Alice's
    assert run.registry.store_failing
    disk.error = None
    run.pass_time(RETRY_SECONDS)
    assert not run.registry.store_failing
    assert run.lease(BOB).lease.port in disk.rows
    assert disk.rows[grant.lease.port].owner == ALICE


def test_a_lease_that_ends_while_the_disk_is_full_ends_there_too_later(run: Run) -> None:
    grant, disk = run.lease(ALICE), run.store
    disk.error = DISK_FULL
    with pytest.raises(RefusedError):
        result(run.registry.release(ALICE, grant.generation))
    assert run.sockets.bound == set()
    disk.error = None
    run.pass_time(RETRY_SECONDS)
    assert disk.rows[grant.lease.port].state == "quarantined"


def test_a_lease_that_expired_does_not_come_back_while_the_disk_is_full(run: Run) -> None:
    grant, disk = run.lease(ALICE), run.store
    disk.error = DISK_FULL
    run.registry.holding_ended(ALICE, grant.generation)
    run.pass_time(TIMES.ttl)
    assert run.port_of(ALICE) is None
    assert run.refusal(ALICE).code == pb.REFUSAL_EXHAUSTED, "a crash would lose it"
    assert run.port_of(ALICE) is None


def test_a_move_that_cannot_be_stored_is_undone(run: Run) -> None:
    grant, disk = run.lease(ALICE), run.store
    old = grant.lease.port
    disk.error = DISK_FULL
    assert run.refusal(ALICE, wanted_port=3).code == pb.REFUSAL_EXHAUSTED
    assert run.port_of(ALICE) == old
    disk.error = None
    run.pass_time(RETRY_SECONDS)
    assert run.registry.counts()["free"] == 2
    assert run.lease(ALICE).lease.port == old


def test_a_holder_that_cannot_move_for_the_disk_goes_on_where_it_is(run: Run) -> None:
    node = Node()
    grant, disk = run.lease(ALICE, node), run.store
    old, generation = grant.lease.port, grant.generation
    disk.error = DISK_FULL
    assert run.refusal(ALICE, node=node, wanted_port=3).code == pb.REFUSAL_EXHAUSTED
    assert run.sockets.bound == {old}
    assert run.registry.visited(old) == (grant.lease, node)
    assert grant.lease.generation == generation, "by which its connection knows it"
    disk.error = None
    run.pass_time(TIMES.ttl + 1)
    assert run.registry.counts()["live"] == 1, "its node is connected"
    run.registry.holding_ended(ALICE, generation)
    assert run.registry.counts()["remembered"] == 1


def test_a_holder_that_cannot_move_and_whose_port_was_taken_meanwhile_is_remembered(
    run: Run, thread: StoreThread
) -> None:
    node = Node()
    grant = run.lease(ALICE, node)
    old = grant.lease.port
    thread.waits = True
    answer = outcome(run.registry.acquire(ALICE, node, "192.0.2.1", wanted_port=3))
    run.sockets.busy = {old}
    thread.turn(DISK_FULL)
    assert answer[0].value.code == pb.REFUSAL_EXHAUSTED
    assert run.sockets.bound == set()
    assert run.registry.counts()["remembered"] == 1
    assert run.port_of(ALICE) == old
    assert node.outcomes == ["moved", "lost"]


def test_what_a_grant_released_is_back_when_the_grant_cannot_be_stored(run: Run) -> None:
    limits = LeaseQuota(per_source=1)
    grant, disk = run.lease(ALICE, limits=limits), run.store
    run.registry.holding_ended(ALICE, grant.generation)
    disk.error = DISK_FULL
    assert run.refusal(BOB, limits=limits).code == pb.REFUSAL_EXHAUSTED
    assert run.port_of(ALICE) == grant.lease.port


def test_two_requests_of_a_new_node_that_cannot_be_stored_leave_nothing(
    run: Run, thread: StoreThread
) -> None:
    thread.waits = True
    got = [outcome(run.registry.acquire(ALICE, Node(), "192.0.2.1")) for _ in range(2)]
    thread.turn(DISK_FULL)
    assert [len(one) for one in got] == [1, 1]
    assert run.registry.counts()["free"] == 3
    assert run.sockets.bound == set()


def test_a_stop_tries_once_more_and_ends_whatever_happens(run: Run) -> None:
    grant, disk = run.lease(ALICE), run.store
    disk.error = DISK_FULL
    run.registry.holding_ended(ALICE, grant.generation)
    disk.error = None
    run.stop()
    assert disk.rows[grant.lease.port].state == "remembered"
    assert run.clock.getDelayedCalls() == []


def test_a_stop_with_a_full_disk_leaves_no_timer(run: Run) -> None:
    run.lease(ALICE)
    run.store.error = DISK_FULL
    run.stop()
    assert run.clock.getDelayedCalls() == []


def test_what_ends_the_start_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        Run(on_disk(tmp_path / "db"), range(1, 3))


# -------------------------------------------------------------------- storms


def test_t5_sixteen_ports_and_ten_thousand_requests() -> None:
    run = Run(Disk(), range(100, 116))
    got: list[Any] = []
    for number in range(10_000):
        owner = proved(0, str(number))
        run.registry.acquire(owner, Node(), "192.0.2.1").addBoth(got.append)
    refused = [one.value for one in got if hasattr(one, "value")]
    assert len(got) - len(refused) == 16
    assert {error.code for error in refused} == {pb.REFUSAL_EXHAUSTED}
    assert run.registry.counts()["live"] == 16
    assert len(run.sockets.bound) == 16


def test_thousands_that_expire_at_once_all_expire() -> None:
    run = Run(Disk(), range(1, 2001))
    for number in range(2000):
        grant = run.lease(claimed(number % 250, str(number)))
        run.registry.holding_ended(grant.lease.owner, grant.generation)
    run.clock.advance(TIMES.ttl)
    assert run.registry.counts()["quarantined"] == 2000
    assert {row.state for row in run.store.rows.values()} == {"quarantined"}


def test_a_burst_of_five_thousand_takes_some_twenty_commits(thread: StoreThread) -> None:
    disk = Disk()
    run = Run(disk, range(1, 5001))
    thread.waits = True
    got: list[Any] = []
    for number in range(5000):
        run.registry.acquire(proved(0, str(number)), Node(), "192.0.2.1").addBoth(got.append)
    thread.all_turns()
    assert len({grant.lease.port for grant in got}) == 5000
    assert len(disk.rows) == 5000
    assert 20 < disk.writes < 25, "in groups: a few milliseconds of a turn for each"


def test_what_one_request_changes_is_written_together(thread: StoreThread) -> None:
    """The lease that leaves one port for another: a crash between two groups would end it."""
    disk = Disk()
    run = Run(disk, range(1, 601))
    run.lease(proved(1), wanted_port=1)
    thread.waits = True
    for number in range(1 + 255):  # the first one is being written, and a group is nearly full
        run.registry.acquire(proved(0, str(number)), Node(), "192.0.2.1")
    moved = run.registry.acquire(proved(1), Node(), "192.0.2.1", wanted_port=600)
    while thread.queue:
        thread.turn()
        states = {row.port: row.state for row in disk.rows.values() if row.owner == proved(1)}
        assert states in ({1: "live"}, {1: "quarantined", 600: "live"})
    assert result(moved).lease.port == 600


def test_while_nothing_changes_only_the_heartbeat_is_written(
    run: Run,
) -> None:
    run.lease(ALICE)
    run.clock.advance(HEARTBEAT_SECONDS)
    before = run.store.writes
    for _ in range(600):
        run.clock.advance(TICK_SECONDS)
    assert run.store.writes - before == 600 * TICK_SECONDS // HEARTBEAT_SECONDS
