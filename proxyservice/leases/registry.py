"""The Twisted service over table and store: bind, commit, announce.

Knows when (a clock), where rows go (the store thread) and whose connection
holds what; the rules are the table's.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from hashlib import blake2b
from math import inf
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from proxyservice.errors import RefusedError, StoreError
from proxyservice.leases.lease import Grant, Lease, LeaseState, LeaseTimes, Owner
from proxyservice.leases.store import LeaseStore, Row
from proxyservice.leases.table import LeaseTable
from proxyservice.wire import proxyservice_pb2 as pb

TICK_SECONDS = 1.0
HEARTBEAT_SECONDS = 60.0
BINDS_PER_TURN = 64
"""Failing binds in one reactor turn, some 20 us each."""

log = Logger()


class PortBinder(Protocol):
    """Whoever owns the listening sockets."""

    def bind(self, port: int) -> None:
        """Listen; already bound is fine. Raises OSError."""

    def unbind(self, port: int) -> None:
        """Stop listening; not bound is fine."""


class Holder(Protocol):
    """The holder of a lease: one main connection."""

    def lease_lost(self, lease: Lease, outcome: str) -> None:
        """The holding is over, for the reason that `outcome` names."""


class LeaseRegistry(Service):
    """All leases of one service; `wall` is the wall clock, read once, at the start."""

    def __init__(
        self,
        reactor: Any,
        store: LeaseStore,
        ports: range,
        times: LeaseTimes,
        binder: PortBinder,
        wall: Any = time.time,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._ports = ports
        self._times = times
        self._binder = binder
        self._wall = wall
        self._holders: dict[Owner, Holder] = {}
        self._dirty: dict[int, None] = {}
        self._waiters: list[Deferred[None]] = []
        self._writing = False
        self._store_failed = False
        self._heartbeat_at = self._refresh_at = 0.0
        self._tick: Any = None

    # ------------------------------------------------------ start and stop

    def startService(self) -> None:
        """Open the store and read it, before the reactor runs. Raises StoreError."""
        now = self._reactor.seconds()
        self._wall_offset = self._wall() - now
        loaded = self._store.open(now + self._wall_offset)
        self._table = LeaseTable(self._ports, self._times, loaded.epoch)
        dropped = [row.port for row in loaded.rows if not self._restore(row, loaded.heartbeat, now)]
        kept = [*(lease.port for lease in self._table), *self._table.quarantined]
        rows = [row for port in kept if (row := self._row(port, now)) is not None]
        self._store.write(rows, set(dropped) - set(kept), now + self._wall_offset)
        self._pool = ThreadPool(1, 1, "lease store")
        self._reactor.callWhenRunning(self._pool.start)
        self._heartbeat_at = now + HEARTBEAT_SECONDS
        self._refresh_at = now + self._times.ttl / 3
        self._tick = self._reactor.callLater(TICK_SECONDS, self._ticked)
        super().startService()

    def _restore(self, row: Row, heartbeat: float, now: float) -> bool:
        left = row.expires - heartbeat
        if left <= 0 or row.port not in self._ports:
            if row.owner is not None and row.port not in self._ports:
                log.warn("port {port} is outside the range now: its lease is gone", port=row.port)
            return False
        if row.owner is None:
            self._table.quarantine(row.port, now + left)
            return True
        return self._table.restore(row.owner, row.port, now + left, row.source)

    def stopService(self) -> Deferred[None]:
        """Write what is not written, and end the store's thread."""
        super().stopService()
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        for lease in self._table:
            self._dirty[lease.port] = None
        last = self._commit(heartbeat=True)
        last.addErrback(lambda failure: log.error("{why}", why=failure.getErrorMessage()))
        return last.addBoth(self._end)

    def abandon_start(self) -> None:
        """Another part could not start, and the reactor will never run."""
        self._store.close()

    def _end(self, _: object) -> None:
        self._pool.stop()
        self._store.close()

    # --------------------------------------------------------------- leases

    def counts(self) -> dict[str, int]:
        """How many ports are in which state."""
        return self._table.counts()

    def visited(self, port: int) -> tuple[Lease, Holder] | None:
        """Whose visitors come to this port; None when nobody holds it."""
        lease = self._table.at_port(port)
        holder = None if lease is None else self._holders.get(lease.owner)
        return None if lease is None or holder is None else (lease, holder)

    @inlineCallbacks
    def acquire(
        self, owner: Owner, holder: Holder, source: str
    ) -> Generator[Deferred[Any], Any, Grant]:
        """Grant, bind, commit; fires with the grant. Fails with RefusedError."""
        now = self._reactor.seconds()
        grant = self._table.acquire(owner, now, source)
        before, self._holders[owner] = self._holders.get(owner), holder
        if before is not None and before is not holder:
            log.info("taken over port {port} by {source}", port=grant.lease.port, source=source)
            before.lease_lost(grant.lease, "taken_over")
        try:
            yield from self._bind(grant)
            self._dirty[grant.lease.port] = None
            yield self._commit()
        except StoreError:
            self._undo(grant)
            raise RefusedError(pb.REFUSAL_EXHAUSTED, "the lease cannot be stored") from None
        if grant.lease.generation != grant.generation:
            raise RefusedError(pb.REFUSAL_SUPERSEDED, "a newer request took over")
        log.info(
            "leased port {port} to {key} at {source}",
            port=grant.lease.port,
            key=short(owner.identity.net_key),
            source=source,
        )
        return grant

    def _bind(self, grant: Grant) -> Generator[Deferred[Any], Any, None]:
        """Bind the lease's port, or move it to one that can be bound. Raises RefusedError."""
        lease, tries = grant.lease, 0
        while lease.generation == grant.generation and lease.state is LeaseState.LIVE:
            try:
                self._binder.bind(lease.port)
                return
            except OSError as error:
                log.warn("port {port} is busy: {error}", port=lease.port, error=error)
            self._dirty[lease.port] = None
            try:
                self._table.port_busy(lease.owner, self._reactor.seconds())
            except RefusedError:
                del self._holders[lease.owner]
                raise
            if not grant.fresh:
                log.warn("moved a lease to port {port}, its own is busy", port=lease.port)
            tries += 1
            if tries % BINDS_PER_TURN == 0:
                yield deferLater(self._reactor, 0)

    def _undo(self, grant: Grant) -> None:
        lease = grant.lease
        if lease.generation != grant.generation:
            return
        if grant.fresh:
            self._table.withdraw(lease.owner, grant.generation)
            self._holders.pop(lease.owner, None)
            self._binder.unbind(lease.port)
            self._dirty[lease.port] = None
        else:
            self.holding_ended(lease.owner, grant.generation)

    def holding_ended(self, owner: Owner, generation: int) -> None:
        """The holder's connection is gone; a past generation's end changes nothing."""
        if not self._table.holding_ended(owner, generation, self._reactor.seconds()):
            return
        lease = self._table.of_owner(owner)
        assert lease is not None
        self._holders.pop(owner, None)
        self._binder.unbind(lease.port)
        self._dirty[lease.port] = None
        log.info(
            "node gone from port {port}, remembered for {seconds:.0f} s",
            port=lease.port,
            seconds=self._times.ttl,
        )
        self._commit_in_background()

    # ----------------------------------------------------------------- time

    def _ticked(self) -> None:
        self._tick = self._reactor.callLater(TICK_SECONDS, self._ticked)
        now = self._reactor.seconds()
        for lease in self._table.expire(now):
            self._dirty[lease.port] = None
            log.info("expired port {port}", port=lease.port)
        if now >= self._refresh_at:
            self._refresh_at = now + self._times.ttl / 3
            live = (lease.port for lease in self._table if lease.state is LeaseState.LIVE)
            self._dirty.update(dict.fromkeys(live))
        if self._dirty or now >= self._heartbeat_at:
            self._commit_in_background()

    # ---------------------------------------------------------------- store

    def _commit_in_background(self) -> None:
        self._commit().addErrback(lambda failure: failure.trap(StoreError))  # told once already

    def _commit(self, *, heartbeat: bool = False) -> Deferred[None]:
        """Everything dirty goes with the next group; fires when that is on disk."""
        done: Deferred[None] = Deferred()
        self._waiters.append(done)
        if heartbeat:
            self._heartbeat_at = 0.0
        if not self._writing:
            self._write()
        return done

    def _write(self) -> None:
        now = self._reactor.seconds()
        ports, self._dirty = list(self._dirty), {}
        waiters, self._waiters = self._waiters, []
        rows = {port: self._row(port, now) for port in ports}
        heartbeat = None
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_SECONDS
            heartbeat = now + self._wall_offset
        self._writing = True
        written: Deferred[None] = deferToThreadPool(
            self._reactor,
            self._pool,
            self._store.write,
            [row for row in rows.values() if row is not None],
            [port for port, row in rows.items() if row is None],
            heartbeat,
        )
        written.addCallbacks(
            self._written, self._not_written, (waiters,), {}, (waiters, ports), {}
        ).addErrback(lambda failure: log.failure("the store's answer failed", failure))

    def _row(self, port: int, now: float) -> Row | None:
        """What is to be stored of a port; None: nothing."""
        lease = self._table.at_port(port)
        if lease is None:
            until = self._table.quarantined.get(port)
            return None if until is None else Row(port, None, until + self._wall_offset)
        expires = lease.expires_at
        if expires == inf:
            # Live: run ahead, so that a crash before the next refresh shortens nothing.
            expires = now + self._times.ttl + self._times.ttl / 3
        return Row(port, lease.owner, expires + self._wall_offset, lease.source)

    def _written(self, _: None, waiters: list[Deferred[None]]) -> None:
        if self._store_failed:
            self._store_failed = False
            log.info("the store can be written again")
        self._settle(waiters, None)

    def _not_written(
        self, failure: Failure, waiters: list[Deferred[None]], ports: list[int]
    ) -> None:
        self._dirty.update(dict.fromkeys(ports))
        if not self._store_failed:
            self._store_failed = True
            log.error("{why}", why=failure.getErrorMessage())
        self._settle(waiters, failure)

    def _settle(self, waiters: list[Deferred[None]], result: Failure | None) -> None:
        self._writing = False
        for waiter in waiters:
            waiter.callback(None) if result is None else waiter.errback(result)
        if self._waiters and not self._writing:
            self._write()


def short(net_key: bytes) -> str:
    """How a key is shown in logs: the first 8 hex digits of its hash."""
    return blake2b(net_key, digest_size=4).hexdigest()
