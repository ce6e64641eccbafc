"""A registry on a fake clock, with sockets, nodes and a disk that do as they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from proxyservice.errors import RefusedError, StoreError
from proxyservice.leases import commits
from proxyservice.leases.lease import Grant, Lease, LeaseTimes, Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.rows import Batch, Row
from proxyservice.leases.store import LeaseStore, Loaded, sqlite_url

TIMES = LeaseTimes(ttl=900.0, proved_ttl=9000.0, quarantine=600.0)


class Reactor(Clock):
    """A fake clock; what is to run at the start is run at once."""

    def callWhenRunning(self, call: Any, *args: Any) -> None:
        call(*args)


class Sockets:
    """The registry's `PortBinder`; `busy` ports are another program's."""

    def __init__(self, busy: set[int] | None = None) -> None:
        self.busy = busy or set()
        self.bound: set[int] = set()

    def bind(self, port: int) -> None:
        if port in self.busy:
            raise OSError("address in use")
        self.bound.add(port)

    def unbind(self, port: int) -> None:
        self.bound.discard(port)


class Node:
    """A holder that notes what it loses: (port, generation, outcome)."""

    def __init__(self) -> None:
        self.losses: list[tuple[int, int, str]] = []

    @property
    def outcomes(self) -> list[str]:
        return [outcome for _, _, outcome in self.losses]

    def lease_lost(self, lease: Lease, outcome: str) -> None:
        self.losses.append((lease.port, lease.generation, outcome))


class StoreThread:
    """Stands for the thread: each write waits for its turn when `waits` is set."""

    def __init__(self) -> None:
        self.waits = False
        self.queue: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def defer(self, _reactor: Any, _pool: Any, call: Any, *args: Any) -> Deferred[Any]:
        if not self.waits:
            return maybeDeferred(call, *args)
        self.queue.append((Deferred(), lambda: call(*args)))
        return self.queue[-1][0]

    def turn(self, failure: Exception | None = None) -> None:
        """The next write happens, or does not."""
        done, call = self.queue.pop(0)
        if failure is not None:
            done.errback(failure)
        else:
            maybeDeferred(call).chainDeferred(done)

    def all_turns(self) -> None:
        while self.queue:
            self.turn()


class NoThreads:
    def __init__(self, *_: object) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


@contextmanager
def store_thread() -> Iterator[StoreThread]:
    """No thread for the registries made inside."""
    thread = StoreThread()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commits, "ThreadPool", NoThreads)
        patch.setattr(commits, "deferToThreadPool", thread.defer)
        yield thread


class Disk:
    """In place of a store: rows in a dictionary, errors on demand."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.epoch = 0
        self.heartbeat: float | None = None
        self.error: Exception | None = None
        self.writes = 0
        self.is_taken = False

    def open(self, wall_now: float) -> Loaded:
        self.epoch += 1
        heartbeat = wall_now if self.heartbeat is None else self.heartbeat
        rows = sorted(self.rows.values(), key=lambda row: row.heard)
        return Loaded(self.epoch, heartbeat, rows)

    def write(self, batch: Batch) -> None:
        self.writes += 1
        if self.error is not None:
            raise self.error
        for port in batch.gone:
            self.rows.pop(port, None)
        for row in batch.rows:
            self.rows[row.port] = row
        if batch.heartbeat is not None:
            self.heartbeat = batch.heartbeat

    def close(self) -> None: ...


class Run:
    """One run of a service at a wall clock of its own."""

    def __init__(
        self,
        store: Any,
        ports: range,
        wall: float = 1e9,
        busy: set[int] | None = None,
        times: LeaseTimes = TIMES,
        registry_class: Callable[..., LeaseRegistry] = LeaseRegistry,
    ) -> None:
        self.clock = Reactor()
        self.wall_offset = wall
        self.sockets = Sockets(busy)
        self.store = store
        self.registry = registry_class(
            self.clock,
            store,
            ports,
            times,
            self.sockets,
            wall=lambda: self.wall_offset + self.clock.seconds(),
        )
        self.registry.startService()

    def lease(self, owner: Owner, node: Node | None = None, **options: Any) -> Grant:
        options.setdefault("source", "192.0.2.1")
        return result(self.registry.acquire(owner, node or Node(), **options))

    def refusal(self, owner: Owner, **options: Any) -> RefusedError:
        with pytest.raises(RefusedError) as caught:
            self.lease(owner, **options)
        return caught.value

    def port_of(self, owner: Owner) -> int | None:
        lease = self.registry._table.of_owner(owner)
        return None if lease is None else lease.port

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        self.clock.pump([step] * int(seconds / step))

    def stop(self) -> None:
        result(self.registry.stopService())


def on_disk(path: Path) -> LeaseStore:
    return LeaseStore(sqlite_url(path), 1)


def result(deferred: Deferred[Any]) -> Any:
    got = outcome(deferred)
    assert got, "it did not fire"
    if hasattr(got[0], "raiseException"):
        got[0].raiseException()
    return got[0]


def outcome(deferred: Deferred[Any]) -> list[Any]:
    """What it fired with, in a list that fills then."""
    got: list[Any] = []
    deferred.addBoth(got.append)
    return got


DISK_FULL = StoreError("store cannot be written: database or disk is full")
