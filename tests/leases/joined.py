"""The table and the naive model, driven together and compared after every step.

`Joined` also plays the store: rows are written when the table says that they changed, and
`crash` builds a new table from nothing but them.
"""

from __future__ import annotations

from dataclasses import replace

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import (
    EndedLease,
    Grant,
    Identity,
    LeaseQuota,
    LeaseState,
    LeaseTimes,
    Owner,
)
from proxyservice.leases.quota import counted_source
from proxyservice.leases.rows import Row, WallClock, restore, row_of
from proxyservice.leases.table import LeaseTable
from proxyservice.leases.unleased import BUSY_SECONDS
from tests.leases.model import HELD, LIVE, PARKED, REMEMBERED, Held, Model

STEADY = 1000.0
"""From the table's clock to stored time; another one after each crash."""


def claimed(number: int, origin: str = "") -> Owner:
    return Owner(Identity(False, b"key", bytes((number,))), origin)


def proved(number: int, origin: str = "") -> Owner:
    return Owner(Identity(True, bytes((number,)) * 32), origin)


class Joined:
    def __init__(
        self,
        ports: range,
        times: LeaseTimes,
        table_class: type[LeaseTable] = LeaseTable,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self.ports, self.times, self.table_class = ports, times, table_class
        self.all_ports = set(ports)  # of every range there was
        self.epoch = 1
        self.table = table_class(ports, times, self.epoch)
        self.model = Model(ports, times, busy_seconds)
        self.rows: dict[int, Row] = {}
        self.steady = STEADY
        self.heartbeat = self.model.now + self.steady
        self.ended: list[EndedLease] = []

    # ---------------------------------------------------------------- events

    def acquire(
        self,
        owner: Owner,
        source: str = "192.0.2.1",
        wanted: int | None = None,
        limits: LeaseQuota | None = None,
    ) -> Grant | None:
        charged, model = counted_source(source), self.model
        expected = model.refusal(owner, charged, wanted, limits)
        mine, before = model.of(owner), self._all()
        was = None if mine is None else replace(mine)
        try:
            grant = self.table.acquire(owner, model.now, source, wanted_port=wanted, limits=limits)
        except RefusedError as error:
            assert error.code == expected, f"refused with {error}"
            assert error.retry_after_seconds >= 0
            assert self._all() == before, "a refused request changes nothing"
            return None
        assert expected is None, f"granted, expected refusal {expected}"
        lease = grant.lease
        assert lease.owner == owner
        released = model.acquired(owner, charged, wanted, limits, lease.port, grant.generation)
        assert [one.owner for one in grant.released] == released
        assert grant.fresh == (was is None)
        assert grant.displaced == (was is not None and was.state == LIVE)
        moved = was is not None and was.port != lease.port
        assert grant.moved_from == (was.port if was is not None and moved else None)
        self.check()
        return grant

    def node_gone(self, owner: Owner, generation: int, hold: bool = False) -> None:
        mine = self.model.of(owner)
        changes = mine is not None and mine.state == LIVE and mine.generation == generation
        ended = self.table.holding_ended(owner, generation, self.model.now, hold=hold)
        assert ended == changes
        if mine is not None and changes:
            self.model.node_gone(mine, hold)
        self.check()

    def release(self, owner: Owner, generation: int) -> None:
        mine = self.model.of(owner)
        changes = mine is not None and mine.state == LIVE and mine.generation == generation
        released = self.table.release(owner, generation, self.model.now)
        assert (released is not None) == changes
        if mine is not None and changes:
            self.model.end(mine, owner)
        self.check()

    def revoke(self, owner: Owner) -> None:
        self.table.revoke(owner, self.model.now)
        mine = self.model.of(owner)
        if mine is not None:
            self.model.end(mine, None)
        self.check()

    def busy(self, grant: Grant) -> None:
        """The port of a current grant turns out to be somebody else's."""
        model, mine = self.model, self.model.of(grant.lease.owner)
        if mine is None or mine.generation != grant.generation or mine.state != LIVE:
            return
        allowed, old = model.any_port(mine.owner), mine.port
        try:
            self.table.move_from_busy(grant, model.now)
        except RefusedError:
            assert not allowed
            if grant.fresh:
                model.leases.remove(mine)
                model.busy[old] = model.now + model.busy_seconds
            elif self._from_outside(grant):
                self._park_again(mine, grant)
                model.busy[old] = model.now + model.busy_seconds
            else:
                model.node_gone(mine, hold=False)
        else:
            assert grant.lease.port in allowed
            model.end_courtesy(grant.lease.port)
            mine.port = grant.lease.port
            model.busy[old] = model.now + model.busy_seconds
            if not grant.fresh and not self._from_outside(grant):
                model.kept[old] = (mine.owner, model.now + self.times.quarantine)
        self.check()

    def wanted_is_busy(self, port: int) -> None:
        self.table.wanted_is_busy(port, self.model.now)
        if port in self.ports and self.model.status(port) not in (LIVE, HELD, REMEMBERED):
            self.model.busy[port] = self.model.now + self.model.busy_seconds
        self.check()

    def undo(self, grant: Grant) -> None:
        """The store refused it, and nobody was told."""
        model, owner = self.model, grant.lease.owner
        mine = model.of(owner)
        self.table.undo(grant, model.now)
        if mine is not None and mine.generation == grant.generation and mine.state == LIVE:
            if grant.fresh:
                model.leases.remove(mine)
                self._put_back(grant)
            elif self._from_outside(grant):
                self._park_again(mine, grant)
            else:
                if grant.moved_from is not None and model.may_have(owner, grant.moved_from):
                    mine.port = grant.moved_from
                model.node_gone(mine, hold=False)
        self.check()

    def _from_outside(self, grant: Grant) -> bool:
        return grant.moved_from is not None and grant.moved_from not in self.ports

    def _park_again(self, mine: Held, grant: Grant) -> None:
        assert grant.moved_from is not None
        mine.port = grant.moved_from
        self.model.kept.pop(mine.port, None)
        mine.homes = tuple(port for port in mine.homes if port != mine.port)
        self.model.node_gone(mine, hold=False)
        mine.state = PARKED

    def _put_back(self, grant: Grant) -> None:
        for lost in grant.released:
            if self.model.of(lost.owner) is None and self.model.may_have(lost.owner, lost.port):
                back = Held(lost.owner, lost.port, lost.generation, lost.charged_to, REMEMBERED)
                back.promised, back.expires = lost.promised_until, lost.expires_at
                back.homes = lost.homes
                self.model.leases.append(back)
                self.model.remember(back)

    def pass_time(self, seconds: float) -> None:
        self.model.pass_time(seconds)
        self.table.pass_time(self.model.now)
        self.check()

    def refresh(self) -> None:
        """Rows of live leases run ahead, and the heartbeat is written."""
        for lease in self.model.leases:
            if lease.state == LIVE:
                self._write(lease.port)
        self.heartbeat = self.model.now + self.steady

    # --------------------------------------------------------------- crashes

    def crash(self, clock_at_start: float = 0.0, ports: range | None = None) -> None:
        """kill -9, and a start on another monotonic clock, perhaps with another range."""
        model = self.model
        before = {one.owner: one for one in model.leases}
        quarantined = {
            port: model.kept[port] for port in self.all_ports if model.status(port) == "quarantined"
        }
        left = {
            one.owner: (one.promised - model.now, one.expires - model.now)
            for one in before.values()
        }
        since_heartbeat = model.now + self.steady - self.heartbeat
        self.epoch += 1
        self.ports = model.ports = ports or self.ports
        self.all_ports.update(self.ports)
        old_now, model.now = model.now, clock_at_start
        self.steady = STEADY + old_now - clock_at_start + 7.0
        self.table = self.table_class(self.ports, self.times, self.epoch)
        for row in sorted(self.rows.values(), key=lambda row: row.heard):
            restore(self.table, row, self.heartbeat, model.now, WallClock(self.steady, self.steady))
        assert {lease.owner: lease.port for lease in self.table} == {
            owner: self._restored_at(one) for owner, one in before.items()
        }, "every lease is there after a crash, on its port or the one that it had before"
        for lease in self.table:
            self._took_back(before[lease.owner], left[lease.owner], since_heartbeat)
        model.busy.clear()
        self._keep_again(quarantined, old_now, since_heartbeat)
        self.heartbeat = model.now + self.steady
        self.rows.clear()
        self.check()

    def _took_back(self, mine: Held, left: tuple[float, float], since_heartbeat: float) -> None:
        lease, now = self.table.of_owner(mine.owner), self.model.now
        assert lease is not None
        if mine.state == LIVE:
            left = self.times.ends(mine.owner.identity, 0.0)
        found = (lease.promised_until - now, lease.expires_at - now)
        for least, is_left in zip(left, found, strict=True):
            assert is_left >= least - 1e-6, "a crash shortens nothing"
            if mine.state != LIVE:
                assert is_left <= least + since_heartbeat + 1e-6, "and lengthens by little"
        assert lease.charged_to == counted_source(lease.source)
        assert (lease.state.value == PARKED) == (lease.port not in self.ports)
        mine.state, mine.generation, mine.charged = lease.state.value, 0, lease.charged_to
        if lease.port != mine.port:
            mine.homes = mine.homes[: mine.homes.index(lease.port)]
            mine.port = lease.port
        mine.promised, mine.expires = lease.promised_until, lease.expires_at
        mine.left = [one.owner for one in self.table].index(mine.owner) + 1
        self.model.departures = max(self.model.departures, len(self.table))

    def _restored_at(self, mine: Held) -> int:
        return next((port for port in mine.homes if port in self.ports), mine.port)

    def _keep_again(
        self,
        quarantined: dict[int, tuple[Owner | None, float]],
        old_now: float,
        since_heartbeat: float,
    ) -> None:
        kept = {
            port: found for port in self.all_ports if (found := self.table.kept(port)) is not None
        }
        for port, (owner, until) in quarantined.items():
            if self.table.at_port(port) is not None:
                assert self.table.at_port(port).owner == owner, "home again"
                continue
            assert port in kept, "quarantine survives"
            assert kept[port][0] == owner
            assert 0 <= kept[port][1] - self.model.now - (until - old_now) <= since_heartbeat + 1e-6
        self.model.kept = kept

    # ---------------------------------------------------------------- checks

    def _write(self, port: int) -> None:
        now = self.model.now
        row = row_of(self.table, port, now, self.times.ttl / 3, WallClock(self.steady, self.steady))
        if row is None:
            self.rows.pop(port, None)
        else:
            self.rows[port] = row

    def _all(self) -> object:
        leases = sorted((replace(lease) for lease in self.table), key=lambda one: one.port)
        return leases, self.table.counts(), [self.table.kept(port) for port in self.all_ports]

    def check(self) -> None:
        table, model = self.table, self.model
        changes = table.take_changes()
        self.ended.extend(changes.ended)
        for port in changes.ports:
            self._write(port)
        found = {
            lease.owner: (
                lease.port,
                lease.state.value,
                lease.generation,
                lease.promised_until,
                lease.expires_at,
                lease.charged_to,
                lease.homes,
            )
            for lease in table
        }
        expected = {
            one.owner: (
                one.port,
                one.state,
                one.generation,
                one.promised,
                one.expires,
                one.charged,
                one.homes,
            )
            for one in model.leases
        }
        assert found == expected
        self._check_ports()
        self._check_quotas()
        self._check_rows()

    def _check_ports(self) -> None:
        states = [self.model.status(port) for port in self.ports]
        names = (LIVE, HELD, REMEMBERED, "quarantined", "busy", "free")
        assert self.table.counts() == {name: states.count(name) for name in names}
        ports = [lease.port for lease in self.table]
        assert len(set(ports)) == len(ports), "one lease for each port"
        parked = {one.port for one in self.model.leases if one.state == PARKED}
        assert set(ports) - parked <= set(self.ports)
        assert self.table.parked == len(parked - set(self.ports)) == len(parked)
        for lease in self.table:
            assert self.table.at_port(lease.port) is self.table.of_owner(lease.owner) is lease

    def _check_quotas(self) -> None:
        leases, counts = list(self.table), self.table.leased_by
        for lease in leases:
            same = [one for one in leases if one.owner.identity == lease.owner.identity]
            assert counts.of_identity(lease.owner.identity) == len(same)
            proved = lease.owner.identity.proved
            charged = self.model.counted(lease.charged_to, lease.owner)
            assert counts.of_source(lease.charged_to, proved=proved) == len(charged)
        tallies: set[object] = {one.owner.identity for one in leases}
        tallies |= {(one.charged_to, one.owner.identity.proved) for one in leases}
        tallies |= {
            (one.charged_to, one.owner.identity.net_key)
            for one in leases
            if not one.owner.identity.proved
        }
        assert len(counts) == len(tallies), "nothing is counted that is not there"

    def _check_rows(self) -> None:
        """What is on disk is what would be written now; of live leases it may be older."""
        wall = WallClock(self.steady, self.steady)
        for port in self.all_ports:
            now = row_of(self.table, port, self.model.now, self.times.ttl / 3, wall)
            stored = self.rows.get(port)
            if now is not None and now.state == LeaseState.LIVE.value and stored is not None:
                ends = {"expires": 0.0, "promised": 0.0, "heard": 0.0}
                now, stored = replace(now, **ends), replace(stored, **ends)
            assert stored == now


def stale_or_not(joined: Joined, owner: Owner, stale: bool) -> int:
    """The generation that may act on the owner's lease, or one that may not."""
    mine = joined.model.of(owner)
    generation = 1 if mine is None else mine.generation
    return generation - 1 if stale else generation
