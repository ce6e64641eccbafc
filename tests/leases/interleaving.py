"""Connections of two nodes that come, go, come again and go late, in any order, while the disk
answers when it likes: at the registry, with what must hold after every event.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Grant, Lease, LeaseTimes, Owner
from proxyservice.leases.registry import LeaseRegistry
from tests.leases.harness import DISK_FULL, Disk, Run, StoreThread
from tests.leases.joined import claimed, proved

PORTS = range(1, 4)
OWNERS = (claimed(1), proved(1))
TIMES = LeaseTimes(ttl=100.0, proved_ttl=200.0, hold=5.0, quarantine=10.0)


@dataclass(eq=False)
class Connection:
    """One main connection, with what its server end knows."""

    owner: Owner
    answers: list[Any] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    open: bool = True

    def lease_lost(self, lease: Lease, outcome: str) -> None:
        assert lease.owner == self.owner
        self.losses.append(outcome)

    @property
    def grant(self) -> Grant | None:
        """What was announced to its node."""
        return next((one for one in self.answers if isinstance(one, Grant)), None)


class Interleaving:
    def __init__(
        self,
        seed: int,
        thread: StoreThread,
        registry_class: type[LeaseRegistry] = LeaseRegistry,
        failures: float = 0.1,
    ) -> None:
        self.random = random.Random(seed)
        self.failures = failures
        self.thread = thread
        self.disk = Disk()
        thread.waits = False
        self.run = Run(self.disk, PORTS, times=TIMES, registry_class=registry_class)
        thread.waits = True
        self.connections: list[Connection] = []
        self.newest: dict[Owner, Connection] = {}
        self.problems: list[str] = []  # where an exception would be lost in a Deferred

    def play(self, events: int) -> None:
        steps = [self.connect] * 4 + [self.close] * 4 + [self.write] * 5 + [self.late, self.tick]
        for _ in range(events):
            self.random.choice(steps)()
            self.check()
        self.end()

    # ----------------------------------------------------------------- events

    def connect(self) -> None:
        connection = Connection(self.random.choice(OWNERS))
        registry, owner = self.run.registry, connection.owner
        acquired = registry.acquire(owner, connection, "192.0.2.1")
        if self._holder(owner) is connection:
            self.newest[owner] = connection
        self.connections.append(connection)
        acquired.addBoth(self._answered, connection)

    def _answered(self, answer: Any, connection: Connection) -> None:
        connection.answers.append(answer)
        grant = connection.grant
        if grant is None:
            if not answer.check(RefusedError):
                self.problems.append(answer.getTraceback())
            return
        row = self.disk.rows.get(grant.lease.port)
        if row is None or row.owner != connection.owner:
            self.problems.append("acknowledged before it was on disk")
        if not connection.open:  # it closed while the grant was under way
            self.run.registry.holding_ended(connection.owner, grant.generation)

    def close(self) -> None:
        """Of any connection, the newest or one that was displaced long ago."""
        opened = [one for one in self.connections if one.open]
        if not opened:
            return
        connection = self.random.choice(opened)
        connection.open = False
        if connection.grant is not None:
            hold = self.random.random() < 0.3
            self._act(connection, lambda owner, number: self.run.registry.holding_ended(
                owner, number, hold=hold
            ))  # fmt: skip

    def late(self) -> None:
        """A Release that a displaced connection had sent, or that is in good time."""
        granted = [one for one in self.connections if one.grant is not None]
        if granted:
            self._act(self.random.choice(granted), self.run.registry.release)

    def _act(self, connection: Connection, act: Any) -> None:
        owner, grant = connection.owner, connection.grant
        assert grant is not None
        lease = self.run.registry._table.of_owner(owner)
        before = None if lease is None else (lease.state, lease.generation, lease.port)
        acted = act(owner, grant.generation)
        if acted is not None:
            acted.addErrback(lambda failure: None)
        if lease is None or grant.generation == lease.generation:
            return
        now = self.run.registry._table.of_owner(owner)
        assert now is lease, "a past connection ended a lease"
        assert (lease.state, lease.generation, lease.port) == before

    def write(self) -> None:
        if self.thread.queue:
            fails = self.random.random() < self.failures
            self.thread.turn(DISK_FULL if fails else None)

    def tick(self) -> None:
        self.run.clock.advance(self.random.choice([1.0, 6.0]))

    # ----------------------------------------------------------------- checks

    def _holder(self, owner: Owner) -> object:
        return self.run.registry._holders.get(owner)

    def check(self) -> None:
        assert not self.problems, self.problems[0]
        registry = self.run.registry
        bound = {lease.port for lease in registry._table if lease.state.value in ("live", "held")}
        assert self.run.sockets.bound == bound, "bound if and only if live or held"
        for lease in registry._table:
            visited = registry.visited(lease.port)
            holder = self._holder(lease.owner)
            assert (holder is not None) == (lease.state.value == "live")
            if lease.state.value == "live":
                assert visited == (lease, self.newest[lease.owner]), "visitors go to the newest"
            else:
                assert visited == ((lease, None) if lease.state.value == "held" else None)
        for connection in self.connections:
            assert len(connection.losses) <= 1, "told once"
            if connection.losses:
                assert self.newest[connection.owner] is not connection or connection.losses == [
                    "released"
                ]

    def end(self) -> None:
        """Everybody goes, the disk works: nothing is left but remembered leases."""
        for connection in self.connections:
            connection.open = False
            grant = connection.grant
            if grant is not None:
                self.run.registry.holding_ended(connection.owner, grant.generation)
        while self.thread.queue:
            self.thread.turn()
        self.run.clock.advance(6.0)
        while self.thread.queue:
            self.thread.turn()
        self.check()
        assert all(one.answers for one in self.connections), "everybody was answered"
        assert self.run.registry._holders == {}
        assert self.run.sockets.bound == set()
        assert len(self.run.clock.getDelayedCalls()) == 1, "the tick"
        on_disk = {row.owner for row in self.disk.rows.values() if row.state == "remembered"}
        assert on_disk == {lease.owner for lease in self.run.registry._table}
