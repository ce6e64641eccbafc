"""The database, which outlives the process, and the thread that writes it: slow, or failing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from proxyservice.errors import StoreError
from proxyservice.leases.rows import QUARANTINED, Batch
from proxyservice.leases.store import LeaseStore, Loaded
from tests.simulation.timeline import Timeline


class Kept(sqlite3.Connection):
    """A database in memory that closing does not lose."""

    def close(self) -> None: ...


class Write:
    """One write that the thread was given."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.done: Deferred[Any] = Deferred()
        self.outcome: Any = None
        self.happened = False
        self._call = call

    def happen(self) -> None:
        if self.happened:
            return
        self.happened = True
        try:
            self._call()
        except StoreError:
            self.outcome = Failure()

    def tell(self) -> None:
        (self.done.callback if self.outcome is None else self.done.errback)(self.outcome)


class Thread:
    """Stands for the pool of one thread: what it was given is done before it stops."""

    def __init__(self, *_: object) -> None:
        self.writes: list[Write] = []
        self.stopped = False

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stopped = True
        for write in self.writes:
            write.happen()


class Disk:
    """`holds`: whose lease each port has in what was committed, read off the batches."""

    def __init__(self, timeline: Timeline, chances: Random) -> None:
        self._timeline, self._random = timeline, chances
        self.database = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, factory=Kept
        )
        self.slow = self.failing = False
        self.failed_at = -1.0
        self.holds: dict[int, Any] = {}

    def fail(self) -> None:
        """Whoever needs the disk calls this first."""
        if self.failing:
            self.failed_at = self._timeline.now
            raise StoreError("store cannot be written: database or disk is full")

    def connect(self, path: object) -> sqlite3.Connection:
        return self.database

    def defer(self, reactor: Any, thread: Thread, call: Any, *args: Any) -> Deferred[Any]:
        """Stands for `deferToThreadPool`: first it is on disk, then the reactor hears of it."""
        write = Write(partial(call, *args))
        if thread.stopped:
            return write.done  # as Twisted's pools do: it never happens
        thread.writes = [*(one for one in thread.writes if not one.happened), write]
        seconds = self._random.random() * (6.0 if self.slow else 0.02)
        reactor.from_thread(seconds, write.happen)
        reactor.from_thread(2 * seconds, self._tell, write)
        return write.done

    def _tell(self, write: Write) -> None:
        if write.outcome is not None:
            self.failed_at = self._timeline.now
        write.tell()


class Store(LeaseStore):
    """The real one, on a disk that may fail."""

    def __init__(self, disk: Disk, network_id: int) -> None:
        super().__init__("memory:", network_id)
        self._disk = disk

    def open(self, wall_now: float) -> Loaded:
        self._disk.fail()
        return super().open(wall_now)

    def write(self, batch: Batch) -> None:
        self._disk.fail()
        super().write(batch)
        for port in batch.gone:
            self._disk.holds.pop(port, None)
        for row in batch.rows:
            self._disk.holds[row.port] = None if row.state == QUARANTINED else row.owner
