"""The checks bite: eight ways to get leases wrong, and the check that sees each.

Every mutant is the real class with one rule broken. The same checks pass on the real ones,
in test_table.py, test_interleavings.py and test_registry.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from proxyservice.leases import record
from proxyservice.leases.lease import Grant, Lease, LeaseTimes, Owner
from proxyservice.leases.quota import LeaseCounts
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.table import LeaseTable
from tests.leases.harness import TIMES, Disk, Run, store_thread
from tests.leases.interleaving import Interleaving
from tests.leases.joined import claimed
from tests.leases.walk import Walk


class ReleasesByKey(LeaseTable):
    """Who proves the key may release, whichever connection it is."""

    def release(self, owner: Owner, generation: int, now: float) -> Lease | None:
        lease = self.of_owner(owner)
        return super().release(owner, lease.generation if lease else generation, now)


class EndsWithoutGeneration(LeaseTable):
    """The end of any connection is the end of the holding."""

    def holding_ended(self, owner: Owner, generation: int, now: float, **how: bool) -> bool:
        lease = self.of_owner(owner)
        return super().holding_ended(owner, lease.generation if lease else 0, now, **how)


class KeepsNoQuarantine(LeaseTable):
    """A port is free as soon as its lease has ended."""

    def _end(self, lease: Lease, now: float, outcome: str, kept_for: Owner | None) -> None:
        super()._end(lease, now, outcome, kept_for)
        self._unleased.take(lease.port)
        self._unleased.give_back(lease.port, now + self.times.quarantine)


class ForgetsWhatIsOutside(LeaseTable):
    """A lease whose port is not in the range is not restored."""

    def restore(self, lease: Lease, now: float) -> bool:
        return lease.port in self._ports and super().restore(lease, now)


class NeverGoesHome(LeaseTable):
    """A lease stays on the port that its owner got while its own was outside the range."""

    def restore(self, lease: Lease, now: float) -> bool:
        lease.homes = ()
        return super().restore(lease, now)


class GreedyCounts(LeaseCounts):
    """At a quota the oldest remembered lease goes, promised or not."""

    def _beyond_promise(self, key: Hashable, now: float, full: str) -> Owner:
        return super()._beyond_promise(key, sys.float_info.max, full)


class BreaksPromises(LeaseTable):
    """See `GreedyCounts`."""

    def __init__(self, ports: range, times: LeaseTimes, epoch: int) -> None:
        super().__init__(ports, times, epoch)
        self._leases.counts = GreedyCounts()


class AcknowledgesBeforeCommit(LeaseRegistry):
    """The grant does not wait for the disk."""

    def startService(self) -> None:
        super().startService()
        commit = self._commits.commit

        def at_once() -> Deferred[None]:
            commit().addErrback(lambda failure: None)
            return succeed(None)

        self._commits.commit = at_once  # type: ignore[method-assign]


class LivesByTheWallClock(LeaseRegistry):
    """Time is what the wall clock says."""

    def __init__(self, reactor: Any, *rest: Any, wall: Callable[[], float]) -> None:
        super().__init__(WallReactor(reactor, wall), *rest, wall=wall)


class WallReactor:
    def __init__(self, reactor: Any, wall: Callable[[], float]) -> None:
        self._reactor = reactor
        self.seconds = wall

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@contextmanager
def registries_with(table_class: type[LeaseTable]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "LeaseTable", table_class)
        yield


def walks(table_class: type[LeaseTable]) -> None:
    for seed in range(20):
        Walk(seed, table_class).run(200)


def interleavings(registry_class: type[LeaseRegistry] = LeaseRegistry) -> None:
    with store_thread() as thread:
        for seed in range(200):
            Interleaving(seed, thread, registry_class).play(14)
            thread.queue.clear()


def clock_jumps(registry_class: type[LeaseRegistry] = LeaseRegistry) -> None:
    """A day forward, two back: the lease ends after its time to live, not before nor later."""
    with store_thread():
        run = Run(Disk(), range(1, 3), registry_class=registry_class)
        grant: Grant = run.lease(claimed(1))
        run.registry.holding_ended(claimed(1), grant.generation)
        run.wall_offset += 86400
        run.pass_time(TIMES.ttl - 1)
        assert run.port_of(claimed(1)) == grant.lease.port
        run.wall_offset -= 2 * 86400
        run.pass_time(1)
        assert run.port_of(claimed(1)) is None


def test_the_real_ones_pass() -> None:
    walks(LeaseTable)
    interleavings()
    clock_jumps()


@pytest.mark.parametrize(
    "mutant",
    [
        ReleasesByKey,
        EndsWithoutGeneration,
        KeepsNoQuarantine,
        ForgetsWhatIsOutside,
        NeverGoesHome,
        BreaksPromises,
    ],
)
def test_a_broken_table_is_seen_by_the_walk(mutant: type[LeaseTable]) -> None:
    with pytest.raises(AssertionError):
        walks(mutant)


@pytest.mark.parametrize("mutant", [ReleasesByKey, EndsWithoutGeneration])
def test_a_table_without_generations_is_seen_by_the_interleavings(
    mutant: type[LeaseTable],
) -> None:
    with registries_with(mutant), pytest.raises(AssertionError):
        interleavings()


def test_an_acknowledgement_before_the_commit_is_seen() -> None:
    with pytest.raises(AssertionError, match="acknowledged before it was on disk"):
        interleavings(AcknowledgesBeforeCommit)


def test_expiry_by_the_wall_clock_is_seen() -> None:
    with pytest.raises(AssertionError):
        clock_jumps(LivesByTheWallClock)
