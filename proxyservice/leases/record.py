"""What of the table is on disk: rows out of it at each commit, and back at the start.

Knows the wall clock, and which leases a crash would not lose; when to write is
`commits.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from twisted.logger import Logger

from proxyservice.leases.lease import Changes, EndedLease, LeaseState, LeaseTimes, Owner
from proxyservice.leases.rows import (
    QUARANTINED,
    Batch,
    Row,
    WallClock,
    past_lease,
    past_row,
    restore,
    row_of,
)
from proxyservice.leases.store import LeaseStore, Loaded
from proxyservice.leases.table import LeaseTable

HEARTBEAT_SECONDS = 60.0
"""At a restart after a crash this much at most is given to leases beyond their time."""

ROWS_BEHIND_SECONDS = 1.0
"""A row may be so late: the registry's tick."""

log = Logger()


class LeaseRecord:
    """One for each run of a service.

    `wall` is the wall clock: promises rest on what it says at the start alone, the history on
    what it says at the time.
    """

    def __init__(
        self,
        reactor: Any,
        store: LeaseStore,
        times: LeaseTimes,
        wall: Callable[[], float],
        history_seconds: float,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._times = times
        self._wall = wall
        self._history_seconds = history_seconds
        self._stored: dict[Owner, int] = {}
        self._steady_offset = 0.0
        self._heartbeat_at = self._refresh_at = 0.0

    def open(self, ports: range) -> LeaseTable:
        """The leases of earlier runs, stored again with their new times. Raises StoreError."""
        now, wall_now = self._reactor.seconds(), self._wall()
        self._steady_offset = wall_now - now
        loaded = self._store.open(wall_now)
        self._table = LeaseTable(ports, self._times, loaded.epoch)
        lost = self._restore(loaded, ports, now)
        self._heartbeat_at = now
        past = [one for row in lost if (one := past_row(row)) is not None]
        batch = self.collect(self._table.take_changes())
        gone = dict.fromkeys((*batch.gone, *(row.port for row in lost)))
        batch = replace(batch, gone=list(gone), past=[*past, *batch.past])
        self._store.write(batch)
        self.written(batch)
        self._refresh_at = now + self._times.ttl / 3
        return self._table

    def _restore(self, loaded: Loaded, ports: range, now: float) -> list[Row]:
        """The rows that are of no use any more."""
        wall = WallClock(self._steady_offset, self._steady_offset)
        lost = [
            row for row in loaded.rows if not restore(self._table, row, loaded.heartbeat, now, wall)
        ]
        if loaded.other_networks:
            log.warn(
                "the store has leases of network id {others} only, not of this relay's; "
                "nothing is lost, a start with that --network-id uses them again",
                others=", ".join(map(str, loaded.other_networks)),
            )
        parked = sorted(one.port for one in self._table if one.state is LeaseState.PARKED)
        if parked:
            log.warn(
                "leases parked: {count}, whose ports ({first}-{last}) are outside --ports "
                "{low}-{high}; nothing is lost, a start with a range that has them gives them back",
                count=len(parked),
                first=parked[0],
                last=parked[-1],
                low=ports.start,
                high=ports.stop - 1,
            )
        return lost

    def port_of(self, owner: Owner) -> int | None:
        """The port of the owner's lease on disk; of none when that is another service's now."""
        return None if self._store.is_taken else self._stored.get(owner)

    def ended(self, ended: Iterable[EndedLease]) -> None:
        """These leases are over: what is still on disk of them keeps nobody's address."""
        for one in ended:
            if one.outcome != "moved":  # a move that cannot be stored goes back
                self._stored.pop(one.lease.owner, None)

    def is_due(self, now: float) -> bool:
        """A heartbeat is to be written."""
        return now >= self._heartbeat_at

    def end(self) -> None:
        """The service stops: the next batch says until when it ran."""
        self._heartbeat_at = self._refresh_at = 0.0

    def due_rows(self, now: float) -> Changes:
        """The live leases, each third of the time to live: their rows have to run ahead."""
        if now < self._refresh_at:
            return Changes()
        self._refresh_at = now + self._times.ttl / 3
        live = (lease.port for lease in self._table if lease.state is LeaseState.LIVE)
        return Changes(dict.fromkeys(live))

    def collect(self, changes: Changes) -> Batch:
        """What is to be written of these changes, and of the passing of time."""
        now = self._reactor.seconds()
        wall = WallClock(self._steady_offset, self._wall() - now)
        ahead = self._times.ttl / 3 + ROWS_BEHIND_SECONDS
        rows = {port: row_of(self._table, port, now, ahead, wall) for port in changes.ports}
        return Batch(
            rows=[row for row in rows.values() if row is not None],
            gone=[port for port, row in rows.items() if row is None],
            past=[past_lease(ended, wall) for ended in changes.ended],
            heartbeat=now + wall.steady if self.is_due(now) else None,
            forget_before=now + wall.shown - self._history_seconds,
        )

    def written(self, batch: Batch) -> None:
        """The batch is on disk."""
        for past in batch.past:
            if self._stored.get(past.owner) == past.port:
                del self._stored[past.owner]
        for row in batch.rows:
            if row.owner is not None and row.state != QUARANTINED:
                self._stored[row.owner] = row.port
        if batch.heartbeat is not None:
            self._heartbeat_at = self._reactor.seconds() + HEARTBEAT_SECONDS
