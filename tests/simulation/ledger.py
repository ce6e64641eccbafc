"""What must hold of leases, from docs/leases.md, kept apart from the code that it judges.

After each turn the service's table, sockets and holders are looked at. Whatever changed since
needs a reason that the nodes, the disk or the time gave. Times are seconds that a service ran:
neither downtime nor the wall clock shortens a promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxyservice.leases.lease import Lease, LeaseState, Owner
from proxyservice.server.main import MainConnection
from tests.simulation.own_parts import check_holders, check_sockets
from tests.simulation.relay import TIMES, Relay

if TYPE_CHECKING:
    from tests.simulation.node_connection import NodeConnection
    from tests.simulation.world import World

MOMENT = 1e-6
BUSY_SECONDS = 62.0
"""A port that could not be bound may be left alone for so long."""

HEARTBEAT_SECONDS = 120.0
RESTART_SECONDS = HEARTBEAT_SECONDS + 90.0
"""A restart gives what was lost since the last heartbeat; there is none while the disk fails."""


@dataclass
class Known:
    """A lease, as it was seen last."""

    owner: Owner
    port: int
    state: LeaseState
    generation: int
    holder: int  # number of its connection
    heard: float  # end of its last holding
    connection: MainConnection | None = None  # the holder's, at the service
    granted_at: float = 0.0  # simulated time
    told: bool = False  # its node knows this port
    resumes: int = 0  # the generation before, of the same holder
    before: tuple[int, bool] | None = None  # where it was, and whether its node knew that
    extra: float = 0.0  # it may last so much longer than its time
    homes: tuple[int, ...] = ()  # where it was before that was outside the range


@dataclass
class Kept:
    """A port whose lease has ended: until when it must, and may, be kept for whom."""

    owner: Owner | None
    until: float
    latest: float


class Ledger:
    def __init__(self, world: World) -> None:
        self._world = world
        self.leases: dict[Owner, Known] = {}
        self.kept: dict[int, Kept] = {}
        self.revoked: Owner | None = None
        self._given_back: set[Owner] = set()
        self._newest = 0
        self._ran = self._began = 0.0
        self._relay: Relay | None = None
        self._seen: object = None

    @property
    def now(self) -> float:
        running = 0.0 if self._relay is None else self._relay.reactor.seconds() - self._began
        return self._ran + running

    # ------------------------------------------------------- starts and ends

    def stopped(self) -> None:
        """In order or not: whoever is connected was heard until now."""
        for known in self.leases.values():
            if known.state is LeaseState.LIVE:
                known.heard = self.now
            known.state, known.holder = LeaseState.REMEMBERED, 0
        self._ran, self._relay = self.now, None

    def started(self, relay: Relay) -> None:
        """Everything that was told is there; what was not, may be."""
        self._relay, self._began = relay, relay.reactor.seconds()
        table = relay.table
        for known in list(self.leases.values()):
            known.extra += RESTART_SECONDS + TIMES.ttl / 3
            known.generation = 0
            lease = table.of_owner(known.owner)
            if lease is None:
                self._not_restored(known)
            elif lease.port in known.homes and lease.port in self._world.port_range:
                self._came_home(known, lease)
            elif lease.port != known.port:
                assert not known.told, f"{self._name(known.owner)} comes back on {lease.port}"
                if known.before is None:  # nor was the end of what it had before stored
                    del self.leases[known.owner]
                    continue
                assert known.before[0] == lease.port, "it was never there"
                known.port, known.told = known.before
                known.homes = tuple(port for port in known.homes if port != known.port)
        for lease in table:
            if lease.owner not in self.leases:
                self._came_back(lease)
        for port, kept in self.kept.items():
            kept.latest += RESTART_SECONDS
            self._check_kept_again(port, kept)
        self._seen = None
        self.observe()

    def _came_home(self, known: Known, lease: Lease) -> None:
        """The range has a port again that it had before; the one that it leaves is kept for it."""
        first = next(port for port in known.homes if port in self._world.port_range)
        assert lease.port == first, f"{self._name(known.owner)} is back on a later port"
        self._keep(known, known.owner, certain=False)
        known.homes, known.port = known.homes[: known.homes.index(first)], first
        known.before = None

    def _not_restored(self, known: Known) -> None:
        ends = known.heard + self._kept_seconds(known.owner)
        if known.told:
            assert ends <= self.now + MOMENT, f"{self._name(known.owner)} is lost in a restart"
        del self.leases[known.owner]
        self._keep(known, known.owner, certain=known.told, since=ends)

    def _came_back(self, lease: Lease) -> None:
        """Its end was not stored yet, so nobody may have been told of it."""
        name = self._name(lease.owner)
        assert lease.owner not in self._given_back, f"{name} is back though its release was stored"
        kept = self.kept.get(lease.port)
        self._world.trace("ledger:", name, "is back on", lease.port)
        if kept is not None and kept.owner not in (None, lease.owner):
            assert kept.until <= self.now + MOMENT, f"{name} is back on somebody's port"
        self.leases[lease.owner] = Known(
            lease.owner, lease.port, lease.state, 0, 0, self.now - TIMES.proved_ttl
        )
        self.leases[lease.owner].extra = RESTART_SECONDS + 2 * TIMES.proved_ttl
        self.leases[lease.owner].homes = lease.homes

    def _check_kept_again(self, port: int, kept: Kept) -> None:
        assert self._relay is not None
        left = kept.until - self.now
        if left <= MOMENT or self._relay.table.at_port(port) is not None:
            return
        if self._may_be_busy(port, BUSY_SECONDS + TIMES.quarantine):
            return  # kept for whoever was moved to it last, and could not have it either
        found = self._relay.table.kept(port)
        assert found is not None, f"the quarantine of {port} is lost in a restart"
        assert found[0] == kept.owner, f"{port} is kept for somebody else"
        found_left = found[1] - self._relay.reactor.seconds()
        assert found_left >= left - MOMENT, f"{port} is kept for {found_left} s, not {left} s"

    # ---------------------------------------------------------- what was said

    def told(self, connection: NodeConnection, owner: Owner, port: int, generation: int) -> None:
        known = self.leases.get(owner)
        if known is None or (self._relay is not None and known.holder != connection.number):
            return  # an answer that is late: somebody else has come, or it was released
        if 0 < generation < known.generation:
            return  # the next request of the same node was granted meanwhile
        if known.port != port:
            assert self._relay is None, f"{self._name(owner)} was told {port}, has {known.port}"
            return
        if self._relay is not None:
            assert generation in (0, known.generation), "another generation was told"
            on_disk = self._world.disk.holds.get(port)
            assert on_disk == owner, f"{port} was announced before it was on disk"
        known.told = True

    def released(self, connection: NodeConnection, owner: Owner) -> None:
        """It was confirmed."""
        if owner not in self.leases:
            self._given_back.add(owner)

    def check_no_port_is_left(self) -> None:
        """Somebody waits for one."""
        left = self._certainly_free()
        assert not left or self._world.disk.failing, f"somebody waits for a port, {left} is free"

    # -------------------------------------------------------- after each turn

    def observe(self) -> None:
        relay = self._relay
        if relay is None:
            return
        seen = (
            [(lease.port, lease.state, lease.generation) for lease in relay.table],
            self._world.network.listenings,
        )
        if seen == self._seen:
            return
        self._seen = seen
        self._check_changes(relay)
        check_sockets(relay, set(self._world.network.listeners), self._world.port_range)
        check_holders(relay)

    def _check_changes(self, relay: Relay) -> None:
        found = {lease.owner: lease for lease in relay.table}
        assert len({lease.port for lease in found.values()}) == len(found), "two leases on a port"
        gone = [known for owner, known in self.leases.items() if owner not in found]
        self._left_over = self._certainly_free()
        for known in gone:
            self._ended(known)
        # One turn may have granted several: who asks lets those that waited come first.
        for lease in sorted(found.values(), key=lambda one: one.generation):
            if lease.owner in self.leases:
                self._changed(relay, self.leases[lease.owner], lease)
            else:
                self._began_anew(relay, lease)
        self.revoked = None

    def _ended(self, known: Known) -> None:
        owner, name = known.owner, self._name(known.owner)
        del self.leases[owner]
        silent = self.now - known.heard
        live = known.state is LeaseState.LIVE
        connection = self._world.connections.get(known.holder)
        releases = connection is not None and live and connection.releases.get(owner.origin)
        if owner == self.revoked:
            self._keep(known, None, certain=True)
        elif releases:
            assert connection is not None
            connection.releases[owner.origin] -= 1
            self._keep(known, owner, certain=known.told)
        elif not known.told:
            self._keep(known, owner, certain=False)
        else:
            assert not live, f"{name} was connected and lost {known.port}"
            assert silent >= TIMES.ttl - MOMENT, f"{name} lost {known.port} after {silent} s"
            if silent < self._kept_seconds(owner) - MOMENT:
                assert not self._left_over, f"{name} lost {known.port}, {self._left_over} is free"
            self._keep(known, owner, certain=True)

    def _began_anew(self, relay: Relay, lease: Lease) -> None:
        self._given_back.discard(lease.owner)
        self._check_may_have(lease)
        known = Known(lease.owner, lease.port, lease.state, 0, 0, self.now)
        self.leases[lease.owner] = known
        self._changed(relay, known, lease)

    def _changed(self, relay: Relay, known: Known, lease: Lease) -> None:
        connection = relay.holder_of(lease.owner)
        was_live = known.state is LeaseState.LIVE or lease.generation != known.generation
        if lease.port != known.port:
            if known.state is LeaseState.PARKED:
                self._left_its_home(known, lease)
            else:
                self._moved(known, lease)
        if known.state is LeaseState.LIVE and lease.state is not LeaseState.LIVE:
            self._check_left(known)
        if lease.generation == known.resumes:
            known.generation = lease.generation  # its move could not be stored
        elif lease.generation != known.generation:
            assert lease.generation > self._newest, "generations only rise"
            same = connection is not None and known.holder == connection.transport.getPeer().port
            known.resumes = known.generation if same else 0
            self._newest = known.generation = lease.generation
            known.granted_at = self._world.timeline.now
        if connection is not None:
            known.holder, known.connection = connection.transport.getPeer().port, connection
        elif was_live:
            known.heard, known.extra = self.now, 0.0
        known.state = lease.state
        most = self._kept_seconds(lease.owner) + known.extra + 3
        lasted = known.state is LeaseState.LIVE or self.now - known.heard <= most
        assert lasted, f"{self._name(lease.owner)} has outlived its time"

    def _check_left(self, known: Known) -> None:
        """Its holder has gone, or was never told because the store or the port failed."""
        connection, disk = known.connection, self._world.disk
        failed = disk.failed_at >= known.granted_at or self._may_be_busy(known.port)
        assert connection is not None
        assert connection.closing or failed, (
            f"{self._name(known.owner)} is there, and counts as gone"
        )

    def _left_its_home(self, known: Known, lease: Lease) -> None:
        """Its port is outside the range, and its owner came."""
        assert known.port not in self._world.port_range, "it could have stayed"
        self._check_may_have(lease)
        known.homes = (*(port for port in known.homes if port != known.port), known.port)
        self._keep(known, known.owner, certain=known.told)
        known.before, known.told, known.port = (known.port, known.told), False, lease.port

    def _moved(self, known: Known, lease: Lease) -> None:
        name, old = self._name(lease.owner), known.port
        undone = known.before is not None and known.before[0] == lease.port and not known.told
        wanted = any(
            lease.port in one.wanted for one in self._world.connections_of(lease.owner.identity)
        )
        assert undone or wanted or self._may_be_busy(old), f"{name} was moved to {lease.port}"
        told = known.told
        if undone:
            assert known.before is not None
            known.told = known.before[1]
            known.homes = tuple(port for port in known.homes if port != lease.port)
        else:
            self._check_may_have(lease)
            known.told = False
        known.before, known.port = (old, told), lease.port
        self._keep(Known(lease.owner, old, lease.state, 0, 0, 0.0), lease.owner, certain=told)

    # ------------------------------------------------------------------ ports

    def _keep(
        self, known: Known, owner: Owner | None, *, certain: bool, since: float | None = None
    ) -> None:
        """Nobody else gets this port for a while."""
        ends = self.now + TIMES.quarantine
        until = ends if since is None else since + TIMES.quarantine
        if not certain:  # what holds since an earlier end still does
            before = self.kept.get(known.port)
            until = 0.0 if before is None or before.owner != owner else before.until
        self.kept[known.port] = Kept(owner, until, ends)

    def _check_may_have(self, lease: Lease) -> None:
        kept = self.kept.get(lease.port)
        if kept is None or kept.owner == lease.owner or kept.until <= self.now + MOMENT:
            return
        name = self._name(lease.owner)
        assert not self._left_over - {lease.port}, (
            f"{name} got {lease.port} in its quarantine, {self._left_over} is free"
        )

    def _certainly_free(self) -> set[int]:
        """Ports that nobody has, keeps, or may find busy."""
        leased = {known.port for known in self.leases.values()}
        found = {lease.port for lease in self._relay.table} if self._relay else set()
        return {
            port
            for port in self._world.port_range
            if port not in leased
            and port not in found
            and not self._may_be_busy(port, BUSY_SECONDS + TIMES.quarantine)
            and (port not in self.kept or self.kept[port].latest + 1 < self.now)
        }

    def _may_be_busy(self, port: int, after: float = BUSY_SECONDS) -> bool:
        """Or, for longer, in quarantine because somebody was moved away from it."""
        taken_until = self._world.taken_until.get(port)
        return taken_until is not None and self._world.timeline.now < taken_until + after

    def _kept_seconds(self, owner: Owner) -> float:
        return TIMES.proved_ttl if owner.identity.proved else TIMES.ttl

    def _name(self, owner: Owner) -> str:
        return self._world.name_of(owner)
