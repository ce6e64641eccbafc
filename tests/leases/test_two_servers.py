"""Two servers, three nodes, three ports, one store: every state within reach, breadth first.

Each server has the real `LeaseTable`; the store is its rows and the epoch of the last start,
which fences whoever started before (`LeaseStore.write`). A server may be replaced by the other
and not know it: what it still grants must reach nobody (invariants 2, 3, 5, 8, 15).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

import pytest

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import LeaseState, LeaseTimes, Owner
from proxyservice.leases.rows import QUARANTINED, Row, WallClock, restore, row_of
from proxyservice.leases.table import LeaseTable
from tests.leases.breadth_first import visit_states
from tests.leases.joined import claimed, proved

TIMES = LeaseTimes(ttl=2.0, proved_ttl=3.0, hold=1.0, quarantine=2.0)
AHEAD_SECONDS = 1.0
PORTS = range(3)
OWNERS = (claimed(1), claimed(2), proved(3))
WALL = WallClock(0.0, 0.0)
FULL = bool(os.environ.get("PROXYSERVICE_FULL"))
STATES = 60_000 if FULL else 2_500


@dataclass
class Server:
    epoch: int
    table: LeaseTable


@dataclass
class Promise:
    """What a node was told, and until when that holds: without end while it is connected."""

    port: int
    generation: int
    until: float = inf


@dataclass
class World:
    fenced: bool = True
    now: float = 0.0
    epoch: int = 0
    heartbeat: float = 0.0
    rows: dict[int, Row] = field(default_factory=dict)
    servers: list[Server | None] = field(default_factory=lambda: [None, None])
    promises: dict[Owner, Promise] = field(default_factory=dict)

    def start(self, number: int) -> None:
        """Of this server, again or for the first time; the other one is not asked."""
        self.epoch += 1
        server = Server(self.epoch, LeaseTable(PORTS, TIMES, self.epoch))
        for row in sorted(self.rows.values(), key=lambda row: row.heard):
            restore(server.table, row, self.heartbeat, self.now, WALL)
        self.servers[number] = server
        for promise in self.promises.values():
            promise.until = min(promise.until, self.now + TIMES.ttl)
        assert self._stored(server)

    def ask(self, server: Server, owner: Owner) -> None:
        """For a lease; it is told once it is stored."""
        try:
            grant = server.table.acquire(owner, self.now, "192.0.2.1")
        except RefusedError:
            return
        if not self._stored(server):
            server.table.undo(grant, self.now)
            server.table.take_changes()
            return
        told, before = Promise(grant.lease.port, grant.generation), self.promises.get(owner)
        if before is not None:
            assert told.generation > before.generation, "generations rise, over servers too"
            assert told.port == before.port or before.until <= self.now, "its address is its own"
        for other, promise in self.promises.items():
            if other != owner and promise.port == told.port:
                assert promise.until <= self.now, "a port that is promised is nobody else's"
        self.promises[owner] = told

    def leave(self, server: Server, owner: Owner, *, release: bool) -> None:
        """A node goes, or gives its lease back."""
        lease = server.table.of_owner(owner)
        assert lease is not None
        if release:
            server.table.release(owner, lease.generation, self.now)
        else:
            server.table.holding_ended(owner, lease.generation, self.now, hold=False)
        promise = self.promises.get(owner)
        if self._stored(server) and promise and promise.generation == lease.generation:
            promise.until = self.now if release else self.now + TIMES.ttl

    def second(self) -> None:
        """Time passes for both, and the rows of live leases run ahead."""
        self.now += 1.0
        for server in self.servers:
            if server is not None:
                server.table.pass_time(self.now)
                live = (one.port for one in server.table if one.state is LeaseState.LIVE)
                self._stored(server, *live)

    def _stored(self, server: Server, *more: int) -> bool:
        """What has changed in the server's table, if it may still write."""
        ports = {*server.table.take_changes().ports, *more}
        if self.fenced and server.epoch != self.epoch:
            return False
        for port in ports:
            row = row_of(server.table, port, self.now, AHEAD_SECONDS, WALL)
            self.rows.pop(port, None)
            if row is not None:
                self.rows[port] = row
        self.heartbeat = self.now
        owners = [row.owner for row in self.rows.values() if row.state != QUARANTINED]
        assert len(set(owners)) == len(owners), "one row for each lease"
        return True

    def seen_as(self) -> str:
        """All that matters for what may come."""
        tables = [server and self._table_seen_as(server) for server in self.servers]
        rows = [
            (port, row.state, row.owner, row.expires - self.now, row.promised - self.now)
            for port, row in sorted(self.rows.items())
        ]
        told = [
            (owner, one.port, max(one.until - self.now, 0.0))
            for owner, one in sorted(self.promises.items(), key=repr)
        ]
        return repr((tables, rows, told, self.now - self.heartbeat))

    def _table_seen_as(self, server: Server) -> object:
        leases = [
            (one.owner, one.port, one.state, one.expires_at - self.now, one.generation > 0)
            for one in server.table
        ]
        kept = [
            found and (found[0], found[1] - self.now)
            for port in PORTS
            for found in [server.table.kept(port)]
        ]
        return server.epoch == self.epoch, leases, kept, list(server.table._unleased._free)


Event = Callable[[World], None]


def events(world: World) -> Iterator[Event]:
    """What can happen in this state."""
    yield World.second
    for number, server in enumerate(world.servers):
        yield lambda world, number=number: world.start(number)  # type: ignore[misc]
        if server is None:
            continue
        for owner in OWNERS:
            yield lambda world, n=number, owner=owner: world.ask(world.servers[n], owner)  # type: ignore[misc]
            lease = server.table.of_owner(owner)
            if lease is None or lease.state is not LeaseState.LIVE:
                continue
            for release in (True, False):
                yield lambda world, n=number, owner=owner, release=release: world.leave(  # type: ignore[misc]
                    world.servers[n], owner, release=release
                )


@pytest.mark.heavy
def test_a_replaced_server_takes_nothing_from_anybody() -> None:
    depth, _ = visit_states(World(), events, World.seen_as, STATES)
    assert depth >= 4, "far enough for both to have started and granted"


def test_without_the_fence_it_does() -> None:
    with pytest.raises(AssertionError, match=r"promised|its own|rise|one row"):
        visit_states(World(fenced=False), events, World.seen_as, STATES)
