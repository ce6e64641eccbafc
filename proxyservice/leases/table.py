"""The rules of leases: a pure table from owners to ports.

`now` is an argument. Every operation is O(log n), and a refused one changes
nothing. What became of ports and leases is noted until `take_changes`, for
whoever binds sockets and writes rows. The invariants are listed in
docs/leases.md and checked by tests/leases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf

from proxyservice.errors import RefusedError
from proxyservice.leases.index import LeaseIndex
from proxyservice.leases.lease import (
    Changes,
    EndedLease,
    Grant,
    Lease,
    LeaseQuota,
    LeaseState,
    LeaseTimes,
    Owner,
)
from proxyservice.leases.quota import LeaseCounts, counted_source
from proxyservice.leases.unleased import UnleasedPorts
from proxyservice.wire import proxyservice_pb2 as pb

EPOCH_SHIFT = 32
"""A generation is the epoch of the start, then a counter: it rises across restarts unstored."""


def nobodys(lease: Lease) -> bool:
    """No port is anybody's own."""
    return False


DUE_AT_ONCE = 256
"""Leases that end in one call, some 20 us each with their rows and log lines."""


class LeaseTable:
    """Who has which port of `ports` (a range); `epoch` rises with every start."""

    def __init__(self, ports: range, times: LeaseTimes, epoch: int) -> None:
        self._ports = ports
        self.times = times
        self._generation = epoch << EPOCH_SHIFT
        self._leases = LeaseIndex()
        self._unleased = UnleasedPorts(ports)
        self._ended_leases: list[EndedLease] = []
        self._on_own_port: Callable[[Lease], bool] = nobodys

    # -------------------------------------------------------------- questions

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases)

    def __len__(self) -> int:
        return len(self._leases)

    def at_port(self, port: int) -> Lease | None:
        """The lease of a port."""
        return self._leases.at_port(port)

    def of_owner(self, owner: Owner) -> Lease | None:
        """The lease of an owner."""
        return self._leases.of_owner(owner)

    def is_current(self, grant: Grant) -> bool:
        """The holding that this grant began has not ended."""
        return self._held_by(grant.lease.owner, grant.generation) is not None

    def _held_by(self, owner: Owner, generation: int) -> Lease | None:
        """The live lease, if this is the generation that may act on it."""
        lease = self._leases.of_owner(owner)
        if lease is None or lease.state is not LeaseState.LIVE or lease.generation != generation:
            return None
        return lease

    def kept(self, port: int) -> tuple[Owner | None, float] | None:
        """For whom a port without a lease is kept in quarantine, and until when."""
        return self._unleased.kept(port)

    def has_port(self, now: float) -> bool:
        """An owner without a lease would find a port, if it can be bound."""
        return self._unleased.any_left or self._leases.beyond_promise(now) is not None

    @property
    def leased_by(self) -> LeaseCounts:
        """How many leases identities and sources have; only to be read."""
        return self._leases.counts

    def counts(self) -> dict[str, int]:
        """How many ports are in which state; their sum is the range."""
        return self._leases.states() | self._unleased.counts()

    def take_changes(self) -> Changes:
        """What changed since the last call."""
        changes = Changes(self._leases.changed, self._ended_leases)
        self._leases.changed, self._ended_leases = {}, []
        return changes

    # ----------------------------------------------------------- at the start

    def restore(self, lease: Lease) -> bool:
        """Put back a remembered lease of an earlier run; False when its port is not to be had."""
        if not self._unleased.is_free(lease.port) or self._leases.of_owner(lease.owner) is not None:
            return False
        self._unleased.take(lease.port)
        self._leases.add(lease)
        return True

    def restore_quarantine(self, port: int, owner: Owner | None, until: float) -> bool:
        """Keep a free port from everybody but `owner`; False when it is not free."""
        if not self._unleased.is_free(port):
            return False
        self._unleased.take(port)
        self._unleased.quarantine(port, owner, until)
        self._leases.changed[port] = None
        return True

    # --------------------------------------------------------------- granting

    def acquire(
        self,
        owner: Owner,
        now: float,
        source: str,
        *,
        wanted_port: int | None = None,
        label: str = "",
        limits: LeaseQuota | None = None,
        charged_to: str | None = None,
    ) -> Grant:
        """Give the owner its port, or the one it wants. Raises RefusedError.

        Of a lease that exists only another port can be refused. Without `limits` a new one is
        granted however many there are. `charged_to`: whose quota it counts for, in the source's
        place.
        """
        charged = counted_source(source) if charged_to is None else charged_to
        self.pass_time(now)
        self.check_wanted(owner, wanted_port)
        lease = self._leases.of_owner(owner)
        if lease is not None and lease.expires_at <= now:  # many are due, it is not its turn yet
            self._end(lease, now, "expired", owner)
            lease = None
        if lease is None:
            return self._acquire_new(owner, now, source, charged, wanted_port, label, limits)
        before = replace(lease)
        self._recharge(lease, charged, limits)
        lease.source, lease.label = source, label
        self._go_live(lease, now)
        moved_from = None
        if wanted_port is not None and wanted_port != lease.port:
            moved_from = lease.port
            self._ended(before, now, "moved")
            self._change_port(lease, wanted_port, now)
            self._unleased.quarantine(moved_from, owner, now + self.times.quarantine)
        displaced = before.state is LeaseState.LIVE
        return Grant(lease, lease.generation, displaced, fresh=False, moved_from=moved_from)

    def reserve(
        self, ports: frozenset[int], now: float, on_own_port: Callable[[Lease], bool] = nobodys
    ) -> None:
        """These are given to whoever wants them by number, and to nobody else.

        Who that may be is the caller's to know. A lease that has one keeps it until it ends;
        `on_own_port` says of which ones that is never. O(n).
        """
        freed = self._unleased.reserve(ports.intersection(self._ports))
        self._leases.changed.update(dict.fromkeys(freed))
        self._on_own_port = on_own_port
        for lease in self._leases:
            endless = lease.expires_at == inf
            if lease.state is not LeaseState.LIVE and endless != self._is_endless(lease):
                lease.promised_until, lease.expires_at = self.ends(lease, now)
                self._leases.expiry_changed(lease)

    def _is_endless(self, lease: Lease) -> bool:
        return self._unleased.is_reserved(lease.port) and self._on_own_port(lease)

    def ends(self, lease: Lease, heard_at: float) -> tuple[float, float]:
        """`promised_until` and `expires_at` if its node were last heard at this moment."""
        if self._is_endless(lease):
            return inf, inf
        return self.times.ends(lease.owner.identity, heard_at)

    def check_wanted(self, owner: Owner, port: int | None) -> None:
        """Raises RefusedError when the owner cannot have this very port."""
        lease = self._leases.of_owner(owner)
        if port is None or (lease is not None and lease.port == port):
            return
        if port not in self._ports:
            reason = f"port {port} is not in {self._ports.start}-{self._ports.stop - 1}"
            raise RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, reason)
        if not self._unleased.is_for(port, owner):
            raise RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, f"port {port} is taken")

    def _acquire_new(
        self,
        owner: Owner,
        now: float,
        source: str,
        charged: str,
        wanted_port: int | None,
        label: str,
        limits: LeaseQuota | None,
    ) -> Grant:
        going = list[Lease]()
        if limits is not None:
            going = self._leases.counts.in_the_way(owner.identity, charged, limits)
        for released in going:
            self._end(released, now, "released", released.owner)
        port = self._port_for(owner, now) if wanted_port is None else wanted_port
        self._unleased.take(port)
        lease = Lease(owner, port, LeaseState.LIVE, 0, inf, inf, source, charged, now, now, label)
        self._leases.add(lease)
        self._go_live(lease, now)
        return Grant(lease, lease.generation, False, fresh=True, released=tuple(going))

    def _port_for(self, owner: Owner, now: float) -> int:
        """Any port will do; under pressure one is made free. Raises RefusedError.

        It cannot raise once a lease has ended in this operation: that one's port is left.
        """
        port = self._unleased.next_for(owner)
        while port is None:
            courtesy = self._leases.beyond_promise(now)
            if courtesy is None:
                soonest = min(self._leases.soonest_loss(), self._unleased.soonest())
                retry = 0.0 if soonest == inf else max(0.0, soonest - now)
                raise RefusedError(pb.REFUSAL_EXHAUSTED, "no port is left", retry)
            self._end(courtesy, now, "expired", courtesy.owner)
            port = None if self._unleased.is_reserved(courtesy.port) else courtesy.port
        return port

    def _go_live(self, lease: Lease, now: float) -> None:
        self._generation += 1
        lease.generation, lease.heard_at = self._generation, now
        lease.promised_until = lease.expires_at = inf
        self._leases.set_state(lease, LeaseState.LIVE)

    def _recharge(self, lease: Lease, charged: str, limits: LeaseQuota | None) -> None:
        """Count a lease for where its node is now, if there is room.

        Its promise does not depend on that: without room it stays counted where it is, so that
        no source gets beyond its quota by leases that began elsewhere.
        """
        if charged != lease.charged_to and (
            limits is None or self._leases.counts.of_source(charged) < limits.per_source
        ):
            self._leases.charge(lease, charged)

    # ------------------------------------------------- what could not be done

    def wanted_is_busy(self, port: int, now: float) -> None:
        """A port without a lease, which somebody wants, cannot be bound."""
        if port in self._ports and self._leases.at_port(port) is None:
            self._unleased.busy(port, now)
            self._leases.changed[port] = None

    def move_from_busy(self, grant: Grant, now: float) -> None:
        """The port of a current grant cannot be bound: somebody outside has it. Move to another.

        Raises RefusedError when there is none. A fresh lease is gone then; any other is
        remembered with its port, which may be free again in time.
        """
        lease, busy = grant.lease, grant.lease.port
        try:
            port = self._port_for(lease.owner, now)
        except RefusedError:
            if grant.fresh:
                self._leases.remove(lease)
                self._unleased.busy(busy, now)
            else:
                self.holding_ended(lease.owner, grant.generation, now)
            raise
        if grant.fresh:
            self._change_port(lease, port, now)
            self._unleased.busy(busy, now)
        else:
            self._ended(replace(lease), now, "moved")
            self._change_port(lease, port, now)
            self._unleased.busy_of(busy, lease.owner, now, now + self.times.quarantine)

    def undo(self, grant: Grant, now: float, *, resumes: int | None = None) -> None:
        """A grant that could not be stored and was never announced; past ones are left alone.

        `resumes`: the generation that its holder had before, and goes on with.
        """
        if not self.is_current(grant):
            return
        lease, port, back = grant.lease, grant.lease.port, grant.moved_from
        if grant.fresh:
            self._leases.remove(lease)
            self._unleased.give_back(port, now)
            for released in grant.released:
                self._take_back(released, now)
            return
        if back is not None and self._unleased.is_for(back, lease.owner):
            self._change_port(lease, back, now)
            self._unleased.give_back(port, now)
        if resumes is None:
            self.holding_ended(lease.owner, grant.generation, now)
        else:
            lease.generation = resumes

    def _take_back(self, lease: Lease, now: float) -> None:
        """A lease that was released for another that did not come to be."""
        if self._leases.of_owner(lease.owner) is None and self._unleased.is_for(
            lease.port, lease.owner
        ):
            self._unleased.take(lease.port)
            lease.since = now
            self._leases.add(lease)

    # ----------------------------------------------------------------- ending

    def holding_ended(
        self,
        owner: Owner,
        generation: int,
        now: float,
        *,
        hold: bool = False,
        messages: bool = False,
    ) -> bool:
        """The node is gone: keep its lease. A past generation changes nothing.

        With `hold` the port stays bound for a while: how long depends on what the lease carries.
        """
        lease = self._held_by(owner, generation)
        if lease is None:
            return False
        lease.heard_at = now
        lease.promised_until, lease.expires_at = self.ends(lease, now)
        hold_seconds = self.times.hold_messages if messages else self.times.hold
        if hold and hold_seconds > 0:
            self._leases.set_state(lease, LeaseState.HELD, now + hold_seconds)
        else:
            self._leases.set_state(lease, LeaseState.REMEMBERED)
        return True

    def release(self, owner: Owner, generation: int, now: float) -> Lease | None:
        """Its holder gives a lease back; None when the generation is past."""
        lease = self._held_by(owner, generation)
        if lease is not None:
            self._end(lease, now, "released", owner)
        return lease

    def revoke(self, owner: Owner, now: float) -> None:
        """The operator ends this owner's lease; in quarantine its port is nobody's."""
        lease = self._leases.of_owner(owner)
        if lease is not None:
            self._end(lease, now, "revoked", None)

    def pass_time(self, now: float) -> bool:
        """End what is due: holds, leases, quarantines, rests of busy ports.

        True when there was more than is done at once: call again, and let others have a turn.
        """
        expired = self._leases.take_expired(now, DUE_AT_ONCE)
        for lease in expired:
            self._end(lease, now, "expired", lease.owner)
        unheld = self._leases.take_unheld(now, DUE_AT_ONCE)
        for lease in unheld:
            self._leases.set_state(lease, LeaseState.REMEMBERED)
        self._leases.changed.update(dict.fromkeys(self._unleased.pass_time(now)))
        return max(len(expired), len(unheld)) == DUE_AT_ONCE

    # ------------------------------------------------------------------ steps

    def _change_port(self, lease: Lease, port: int, now: float) -> None:
        """Of a live lease; what becomes of the old port is the caller's to say."""
        self._unleased.take(port)
        self._leases.set_port(lease, port)
        lease.since = now

    def _end(self, lease: Lease, now: float, outcome: str, kept_for: Owner | None) -> None:
        self._leases.remove(lease)
        self._unleased.quarantine(lease.port, kept_for, now + self.times.quarantine)
        self._ended(lease, now, outcome)

    def _ended(self, lease: Lease, now: float, outcome: str) -> None:
        self._ended_leases.append(EndedLease(lease, now, outcome))
