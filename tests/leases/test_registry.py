"""Registry and store together: what survives, on a fake clock and a real file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from proxyservice.errors import RefusedError, StoreError
from proxyservice.leases import commits as commits_module
from proxyservice.leases.lease import Grant, Identity, Lease, LeaseTimes, Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.store import LeaseStore, sqlite_url

TIMES = LeaseTimes(ttl=900.0, quarantine=600.0)


class Reactor(Clock):
    """A fake clock; what is to run at the start is run at once."""

    def callWhenRunning(self, call: Any, *args: Any) -> None:
        call(*args)


class NoThread:
    def __init__(self, least: int, most: int, name: str) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Sockets:
    def __init__(self, busy: set[int]) -> None:
        self.busy = busy
        self.bound: set[int] = set()

    def bind(self, port: int) -> None:
        if port in self.busy:
            raise OSError("address in use")
        self.bound.add(port)

    def unbind(self, port: int) -> None:
        self.bound.discard(port)


class Node:
    def __init__(self) -> None:
        self.lost: list[str] = []

    def lease_lost(self, lease: Lease, outcome: str) -> None:
        self.lost.append(outcome)


class Run:
    """One run of a service on `path`, at a wall clock of its own."""

    def __init__(self, path: Path, wall: float, ports: range, busy: set[int]) -> None:
        self.clock = Reactor()
        self.sockets = Sockets(busy)
        self.store = LeaseStore(sqlite_url(path), 1)
        self.registry = LeaseRegistry(
            self.clock, self.store, ports, TIMES, self.sockets, wall=lambda: wall
        )
        self.registry.startService()

    def lease(self, who: Owner) -> Grant:
        return result(self.registry.acquire(who, Node(), "source"))

    def stop(self) -> None:
        result(self.registry.stopService())


def result(deferred: Deferred[Any]) -> Any:
    got: list[Any] = []
    deferred.addBoth(got.append)
    assert got, "it did not fire"
    if hasattr(got[0], "raiseException"):
        got[0].raiseException()
    return got[0]


@pytest.fixture(autouse=True)
def store_thread_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what is for the store's thread at once: the order of things stays, waiting goes."""
    from twisted.internet.defer import maybeDeferred

    def now(_reactor: Any, _pool: Any, call: Any, *args: Any) -> Deferred[Any]:
        return maybeDeferred(call, *args)

    monkeypatch.setattr(commits_module, "deferToThreadPool", now)
    monkeypatch.setattr(commits_module, "ThreadPool", NoThread)


def owner(number: int) -> Owner:
    return Owner(Identity(False, b"k", bytes((number,))), "")


def ports_after(run: Run) -> dict[bytes, int]:
    return {lease.owner.identity.connection_id: lease.port for lease in run.registry._table}


@pytest.mark.parametrize("wall", [2e9, 1e9 + 5 * 86400, 1e9 - 5 * 86400])
def test_neither_downtime_nor_a_new_clock_costs_an_address(tmp_path: Path, wall: float) -> None:
    first = Run(tmp_path / "db", 1e9, range(1, 9), set())
    grants = [first.lease(owner(n)) for n in range(3)]
    first.registry.holding_ended(owner(1), grants[1].generation)
    first.stop()
    second = Run(tmp_path / "db", wall, range(1, 9), set())
    assert ports_after(second) == {bytes((n,)): grants[n].lease.port for n in range(3)}
    assert second.lease(owner(2)).lease.port == grants[2].lease.port
    assert second.lease(owner(2)).generation > grants[2].generation
    second.stop()


def test_a_crash_shortens_nothing(tmp_path: Path) -> None:
    first = Run(tmp_path / "db", 1e9, range(1, 9), set())
    grant = first.lease(owner(1))
    for _ in range(1000):  # over an hour, no end of the run
        first.clock.advance(4)
    second = Run(tmp_path / "db", 1e9 + 1e6, range(1, 9), set())
    second.clock.advance(TIMES.ttl - 1)
    assert ports_after(second) == {b"\1": grant.lease.port}
    for _ in range(2):
        second.clock.advance(TIMES.ttl / 3)
    assert ports_after(second) == {}
    assert second.registry.counts()["quarantined"] == 1
    second.stop()


def test_quarantine_survives_a_restart(tmp_path: Path) -> None:
    first = Run(tmp_path / "db", 1e9, range(1, 3), set())
    grant = first.lease(owner(1))
    first.registry.holding_ended(owner(1), grant.generation)
    for _ in range(10):
        first.clock.advance(TIMES.ttl / 9)
    first.stop()
    second = Run(tmp_path / "db", 1e9, range(1, 3), set())
    assert second.registry.counts()["quarantined"] == 1
    assert second.lease(owner(2)).lease.port != grant.lease.port
    second.stop()


def test_half_of_the_range_is_busy(tmp_path: Path) -> None:
    run = Run(tmp_path / "db", 1e9, range(1, 41), set(range(1, 21)))
    got: list[Any] = []
    run.registry.acquire(owner(1), Node(), "source").addBoth(got.append)
    run.clock.advance(0)
    assert got[0].lease.port == 21
    assert run.sockets.bound == {21}
    assert run.registry.counts() == {
        "free": 19, "live": 1, "held": 0, "remembered": 0, "quarantined": 0, "busy": 20,
    }  # fmt: skip
    run.stop()


def test_takeover_tells_the_older_holder_and_its_late_end_changes_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "db", 1e9, range(1, 3), set())
    old = Node()
    first = result(run.registry.acquire(owner(1), old, "source"))
    second = run.lease(owner(1))
    assert old.lost == ["taken_over"]
    run.registry.holding_ended(owner(1), first.generation)
    assert run.sockets.bound == {second.lease.port}
    assert run.registry.visited(second.lease.port) is not None
    run.stop()


def test_acknowledged_only_after_the_commit_and_refused_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "db", 1e9, range(1, 3), set())
    pending: list[Deferred[None]] = []

    def later(_reactor: Any, _pool: Any, call: Any, *args: Any) -> Deferred[None]:
        pending.append(Deferred())
        return pending[-1]

    with monkeypatch.context() as patch:
        patch.setattr(commits_module, "deferToThreadPool", later)
        got: list[Any] = []
        for number in range(2):
            run.registry.acquire(owner(number), Node(), "source").addBoth(got.append)
        assert got == []
        assert len(pending) == 1, "the second waits for the next group"
        pending[0].callback(None)
        assert len(got) == 1
        pending[1].errback(StoreError("disk full"))
    got[1].trap(RefusedError)
    assert run.registry.counts()["free"] == 1
    assert len(run.sockets.bound) == 1
    run.stop()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Run(tmp_path / "db", 1e9, range(1, 3), set()).stop()
    engine = sa.create_engine(sqlite_url(tmp_path / "db"))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE proxyservice SET schema_version = 99")
    engine.dispose()
    with pytest.raises(StoreError, match="newer version"):
        LeaseStore(sqlite_url(tmp_path / "db"), 1).open(0.0)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        LeaseStore(sqlite_url(tmp_path / "db"), 1).open(0.0)
