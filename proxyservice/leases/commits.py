"""Group commits: what is marked goes to disk together, one group at a time, on one thread.

Knows when to write and when to try again; what is written is the registry's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
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

GROUP = 256
"""Ports and waiting answers of one commit: making rows of more, or answering more nodes, would
take one turn of the reactor longer than 20 ms."""

TOGETHER = 16
"""Ports that one request can change, and then some: a group is larger by so many at most."""

log = Logger()


@dataclass(slots=True)
class _Group:
    changes: Changes = field(default_factory=Changes)
    waiters: list[Deferred[None]] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return max(len(self.changes.ports), len(self.waiters)) >= GROUP


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
        self._groups: deque[_Group] = deque()
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
        return bool(self._groups)

    def start(self) -> None:
        """As soon as the reactor runs."""
        self._reactor.callWhenRunning(self._pool.start)

    def mark(self, changes: Changes) -> None:
        """It goes with the next group, or with the next ones if it is much.

        What one request changes stays together: half of a move would be a lease without a port.
        """
        if not changes.ports and not changes.ended:
            return
        if len(changes.ports) <= TOGETHER:
            group = self._open_group()
            group.changes.ports.update(changes.ports)
            group.changes.ended.extend(changes.ended)
            return
        for port in changes.ports:
            self._open_group().changes.ports[port] = None
        self._open_group().changes.ended.extend(changes.ended)

    def _open_group(self) -> _Group:
        if not self._groups or self._groups[-1].full:
            self._groups.append(_Group())
        return self._groups[-1]

    def commit(self) -> Deferred[None]:
        """Fires when everything that is marked is on disk. Fails with StoreError.

        While the store fails this fails at once; what is marked stays so.
        """
        if self._why is not None:
            return fail(self._why)
        done: Deferred[None] = Deferred()
        self._open_group().waiters.append(done)
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
        group = self._groups.popleft() if self._groups else _Group()
        batch = self._collect(group.changes)
        self._writing = True
        written: Deferred[None] = deferToThreadPool(
            self._reactor, self._pool, self._write_batch, batch
        )
        written.addCallbacks(
            self._succeeded, self._failed, (batch, group), {}, (group,), {}
        ).addErrback(lambda failure: log.failure("the store's answer failed", failure))

    def _succeeded(self, _: None, batch: Batch, group: _Group) -> None:
        self._writing = False
        if self._why is not None:
            self._why = None
            log.info("the store can be written again")
        self._written(batch)
        if self._groups:
            self._write()
        for waiter in group.waiters:
            waiter.callback(None)

    def _failed(self, failure: Failure, group: _Group) -> None:
        self._writing = False
        self.failures += 1
        why = failure.value
        if not isinstance(why, StoreError):
            why = StoreError(f"the store cannot be written: {failure.getErrorMessage()}")
        if self._why is None:
            log.error("{why}; new leases are refused until it can", why=why)
        self._why = why
        if not self._stopping:
            self._retry = self._reactor.callLater(RETRY_SECONDS, self._try_again)
        self._groups.appendleft(group)
        waiting = [waiter for one in self._groups for waiter in one.waiters]
        for one in self._groups:
            one.waiters = []
        for waiter in waiting:
            waiter.errback(why)

    def _try_again(self) -> None:
        self._retry = None
        self._write()
