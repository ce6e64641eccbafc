"""Group commits: what is marked goes to disk together, one group at a time, on one thread.

Knows when to write and when to try again; what is written is the registry's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from proxyservice.errors import StoreError
from proxyservice.leases.lease import Changes
from proxyservice.leases.rows import Batch

RETRY_SECONDS = 5.0
"""Rest after a failed write: a full disk or a lock lasts a while, and each try may take seconds."""

log = Logger()


class GroupCommits:
    """One for each store.

    `collect` makes a batch of what changed; `write` commits it, on the thread; `written` hears
    of success before any `commit` fires.
    """

    def __init__(
        self,
        reactor: Any,
        collect: Callable[[Changes], Batch],
        write: Callable[[Batch], None],
        written: Callable[[Batch], None],
    ) -> None:
        self._reactor = reactor
        self._collect = collect
        self._write_batch = write
        self._written = written
        self._changes = Changes()
        self._waiters: list[Deferred[None]] = []
        self._writing = self._stopping = False
        self._retry: Any = None
        self._why: StoreError | None = None
        self.failures = 0
        self._pool = ThreadPool(1, 1, "lease store")

    @property
    def failing(self) -> bool:
        """The last write failed; the next is tried after a rest."""
        return self._why is not None

    @property
    def needed(self) -> bool:
        """Something is marked and not written."""
        return bool(self._changes.ports or self._changes.ended)

    def start(self) -> None:
        """As soon as the reactor runs."""
        self._reactor.callWhenRunning(self._pool.start)

    def mark(self, changes: Changes) -> None:
        """It goes with the next group."""
        self._changes.ports.update(changes.ports)
        self._changes.ended.extend(changes.ended)

    def commit(self) -> Deferred[None]:
        """Fires when everything that is marked is on disk. Fails with StoreError.

        While the store fails this fails at once; what is marked stays so.
        """
        if self._why is not None:
            return fail(self._why)
        done: Deferred[None] = Deferred()
        self._waiters.append(done)
        if not self._writing:
            self._write()
        return done

    def in_background(self) -> None:
        """Write what is marked; a failure is logged, counted, and tried again."""
        self.commit().addErrback(lambda failure: failure.trap(StoreError))

    def stop(self) -> Deferred[None]:
        """One more write, whatever happened before, and the end of the thread."""
        self._stopping, self._why = True, None
        if self._retry is not None:
            self._retry.cancel()
        last = self.commit()
        last.addErrback(lambda failure: failure.trap(StoreError) and None)
        return last.addCallback(lambda _: self._pool.stop())

    def _write(self) -> None:
        changes, self._changes = self._changes, Changes()
        waiters, self._waiters = self._waiters, []
        batch = self._collect(changes)
        self._writing = True
        written: Deferred[None] = deferToThreadPool(
            self._reactor, self._pool, self._write_batch, batch
        )
        written.addCallbacks(
            self._succeeded, self._failed, (batch, waiters), {}, (changes, waiters), {}
        ).addErrback(lambda failure: log.failure("the store's answer failed", failure))

    def _succeeded(self, _: None, batch: Batch, waiters: list[Deferred[None]]) -> None:
        self._writing = False
        if self._why is not None:
            self._why = None
            log.info("the store can be written again")
        self._written(batch)
        for waiter in waiters:
            waiter.callback(None)
        if self._waiters and not self._writing:
            self._write()

    def _failed(self, failure: Failure, changes: Changes, waiters: list[Deferred[None]]) -> None:
        self._writing = False
        self.failures += 1
        newer, self._changes = self._changes, changes
        self.mark(newer)
        why = failure.value
        if not isinstance(why, StoreError):
            why = StoreError(f"the store cannot be written: {failure.getErrorMessage()}")
        if self._why is None:
            log.error("{why}; new leases are refused until it can", why=why)
        self._why = why
        if not self._stopping:
            self._retry = self._reactor.callLater(RETRY_SECONDS, self._try_again)
        waiting, self._waiters = [*waiters, *self._waiters], []
        for waiter in waiting:
            waiter.errback(why)

    def _try_again(self) -> None:
        self._retry = None
        self._write()
