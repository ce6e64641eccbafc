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
    ANY_PORT,
    MOST_HOMES,
    NOTHING_SHOWN,
    Changes,
    EndedLease,
    Grant,
    Lease,
    LeaseQuota,
    LeaseState,
    LeaseTimes,
    Owner,
    PortChoice,
    Shown,
)
from proxyservice.leases.quota import LeaseCounts, counted_source
from proxyservice.leases.unleased import UnleasedPorts
from proxyservice.units import format_duration
from proxyservice.wire import proxyservice_pb2 as pb

EPOCH_SHIFT = 32
"""A generation is the epoch of the start, then a counter: it rises across restarts unstored."""


def with_home(homes: tuple[int, ...], port: int) -> tuple[int, ...]:
    """One more port to go back to: the first is kept, and the latest."""
    known = (*(one for one in homes if one != port), port)
    return known if len(known) <= MOST_HOMES else (known[0], *known[-MOST_HOMES + 1 :])


def nobodys(lease: Lease) -> bool:
    """No port is anybody's own."""
    return False


DUE_AT_ONCE = 256
"""Leases that end in one call, some 20 us each with their rows and log lines."""

RETRY_SECONDS = 60.0
"""When nothing that is known brings a port back: one may be given back at any time."""

LONGEST_FULL_RETRY_SECONDS = 300.0
"""After that a node asks again, even if every lease lasts longer: any owner may release its
address before, and the operator may have started the relay with the right range again."""


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
        """How many ports are in which state; their sum is the range. Parked leases are apart."""
        return self._leases.states() | self._unleased.counts()

    @property
    def parked(self) -> int:
        """How many leases have their port outside the range."""
        return self._leases.parked

    def take_changes(self) -> Changes:
        """What changed since the last call."""
        changes = Changes(self._leases.changed, self._ended_leases)
        self._leases.changed, self._ended_leases = {}, []
        return changes

    # ----------------------------------------------------------- at the start

    def restore(self, lease: Lease, now: float) -> bool:
        """Put back a remembered lease of an earlier run; False when its port is not to be had.

        One whose port is outside the range is parked. One that had another port before the range
        was changed goes back to that if the range has it again: nobody is connected now.
        """
        if self._leases.of_owner(lease.owner) is not None:
            return False
        if self._return_home(lease, now):
            return True
        if lease.port not in self._ports:
            if self._leases.at_port(lease.port) is not None:
                return False
            lease.state = LeaseState.PARKED
        elif not self._unleased.is_free(lease.port):
            return False
        else:
            self._unleased.take(lease.port)
        self._leases.add(lease)
        return True

    def _return_home(self, lease: Lease, now: float) -> bool:
        """To the port it had first of those that the range has again."""
        homes = enumerate(lease.homes)
        at = next((n for n, port in homes if self._unleased.is_for(port, lease.owner)), None)
        if at is None:
            return False
        self._ended(replace(lease), now, "moved")
        away, lease.port, lease.homes = lease.port, lease.homes[at], lease.homes[:at]
        lease.since = now
        self._unleased.take(lease.port)
        self._leases.add(lease)
        self._leases.changed[away] = None
        self.restore_quarantine(away, lease.owner, now + self.times.quarantine)
        return True

    def restore_quarantine(self, port: int, owner: Owner | None, until: float) -> bool:
        """Keep a port from everybody but `owner`; False when it is not free."""
        if port in self._ports:
            if not self._unleased.is_free(port):
                return False
            self._unleased.take(port)
        elif self._leases.at_port(port) is not None:
            return False
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
        choice: PortChoice = ANY_PORT,
        shown: Shown = NOTHING_SHOWN,
    ) -> Grant:
        """Give the owner its port, or the one it wants. Raises RefusedError.

        Of a lease that exists only another port can be refused. Without `limits` a new one is
        granted however many there are. `charged_to`: whose quota it counts for, in the source's
        place. A new lease is on a port of `choice`; one that exists stays where it is, unless
        that is outside the range: see `place_for`.
        """
        charged = counted_source(source) if charged_to is None else charged_to
        self.pass_time(now)
        self.check_wanted(owner, wanted_port)
        lease = self._leases.of_owner(owner)
        if lease is not None and lease.expires_at <= now:  # many are due, it is not its turn yet
            self._end(lease, now, "expired", owner)
            lease = None
        if lease is None:
            lease = Lease(owner, 0, LeaseState.LIVE, 0, inf, inf, source, charged, now, now, label)
            lease.shown = shown
            return self._acquire_new(lease, now, wanted_port, limits, choice)
        port = lease.port if wanted_port is None else wanted_port
        parked = lease.state is LeaseState.PARKED
        if parked and wanted_port is None:
            port = self._port_for(owner, now, choice)
        before = replace(lease)
        self._recharge(lease, charged, limits)
        lease.source, lease.label, lease.shown = source, label, shown
        self._go_live(lease, now)
        moved_from = None
        if port != lease.port:
            moved_from = lease.port
            self._ended(before, now, "moved")
            self._change_port(lease, port, now)
            if parked:
                lease.homes = with_home(lease.homes, moved_from)
            self._unleased.quarantine(moved_from, owner, now + self.times.quarantine)
        displaced = before.state is LeaseState.LIVE
        return Grant(
            lease,
            lease.generation,
            displaced,
            fresh=False,
            moved_from=moved_from,
            choice=choice,
        )

    def place_for(self, owner: Owner, choice: PortChoice) -> int | None:
        """The port that a lease has to move to, so that it is where its owner may be; None: none.

        Raises RefusedError when it may not stay, and there is no other.
        """
        lease = self._leases.of_owner(owner)
        if lease is None or choice == ANY_PORT:
            return None
        own = choice.own
        if own is not None and own != lease.port and self._unleased.is_for(own, owner):
            return own
        if lease.state is LeaseState.PARKED or choice.allows(lease.port):
            return None
        port = self._unleased.next_for(owner, choice)
        if port is None:
            raise self._exhausted(0.0, choice)
        return port

    def reserve(
        self, ports: frozenset[int], now: float, on_own_port: Callable[[Lease], bool] = nobodys
    ) -> None:
        """These are given to whoever wants them by number, and to nobody else.

        Who that may be is the caller's to know. A lease that has one keeps it until it ends;
        `on_own_port` says of which ones that is never. O(n).
        """
        inside = ports.intersection(self._ports)
        freed = self._unleased.reserve(inside)
        self._leases.set_reserved(inside)
        self._leases.changed.update(dict.fromkeys(freed))
        self._on_own_port = on_own_port
        for lease in self._leases:
            endless = lease.expires_at == inf
            # Whose a parked one's port is does not count now: it stays as it was.
            counts = lease.state not in (LeaseState.LIVE, LeaseState.PARKED)
            if counts and endless != self._is_endless(lease):
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
        if port is None or (port in self._ports and lease is not None and lease.port == port):
            return
        if port not in self._ports:
            reason = (
                f"port {port} is not in {self._ports.start}-{self._ports.stop - 1}, which is what "
                "the relay has (--ports): ask for one of these, or for any"
            )
            raise RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, reason)
        if not self._unleased.is_for(port, owner):
            reason = f"port {port} is taken: ask for another, or for any"
            raise RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, reason, RETRY_SECONDS)

    def _acquire_new(
        self,
        lease: Lease,
        now: float,
        wanted_port: int | None,
        limits: LeaseQuota | None,
        choice: PortChoice,
    ) -> Grant:
        """First the quota, which is looked up at once, then the port. Raises RefusedError."""
        owner, counts = lease.owner, self._leases.counts
        going: list[Lease] = []
        if limits is not None:
            identity = owner.identity
            for former in counts.in_the_way(identity, lease.charged_to, limits, now):
                found = self._leases.of_owner(former)
                assert found is not None, "it is counted"
                going.append(found)
        if wanted_port is None:
            self._check_port_for(owner, now, choice, going)
        for released in going:
            self._end(released, now, "released", released.owner)
        port = self._port_for(owner, now, choice) if wanted_port is None else wanted_port
        self._unleased.take(port)
        lease.port = port
        self._leases.add(lease)
        self._go_live(lease, now)
        return Grant(
            lease, lease.generation, False, fresh=True, released=tuple(going), choice=choice
        )

    def _check_port_for(
        self, owner: Owner, now: float, choice: PortChoice, going: list[Lease]
    ) -> None:
        """Whether there will be a port once these have gone. Raises RefusedError."""
        if self._unleased.next_for(owner, choice) is not None:
            return
        if choice.among is None:
            left = (self._ends_for_port(one.port) for one in going)
            if self._leases.beyond_promise(now) is not None or any(left):
                return
        raise self._exhausted(now, choice)

    def _ends_for_port(self, port: int) -> bool:
        """Whether anybody may have this port once its lease has ended."""
        return port in self._ports and not self._unleased.is_reserved(port)

    def _port_for(self, owner: Owner, now: float, choice: PortChoice) -> int:
        """A port of the choice; under pressure one is made free. Raises RefusedError."""
        port = self._unleased.next_for(owner, choice)
        if port is None:
            courtesy = self._leases.beyond_promise(now) if choice.among is None else None
            if courtesy is None:
                raise self._exhausted(now, choice)
            self._end(courtesy, now, "expired", courtesy.owner)
            port = courtesy.port
        return port

    def _exhausted(self, now: float, choice: PortChoice) -> RefusedError:
        """What lifts it, and when it may be over."""
        if choice.among is not None:
            reason = "none of the ports that the relay's --policy has for this node is left"
            return RefusedError(pb.REFUSAL_EXHAUSTED, reason, RETRY_SECONDS)
        soonest = min(self._leases.soonest_loss(), self._unleased.soonest())
        retry = RETRY_SECONDS if soonest == inf else max(0.0, soonest - now)
        ports = f"{self._ports.start}-{self._ports.stop - 1}"
        reason = (
            f"no port is left: all of {ports} are leased; one may be free in "
            f"{format_duration(round(retry))}, and a wider --ports of the relay has more"
        )
        retry = min(retry, LONGEST_FULL_RETRY_SECONDS)
        return RefusedError(pb.REFUSAL_EXHAUSTED, reason, retry)

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
        proved = lease.owner.identity.proved
        if charged != lease.charged_to and (
            limits is None
            or self._leases.counts.of_source(charged, proved=proved)
            < limits.of_source(proved=proved)
        ):
            self._leases.charge(lease, charged)

    def charge(self, lease: Lease, charged_to: str) -> None:
        """It counts for something else from now on, however many do."""
        if charged_to != lease.charged_to:
            self._leases.charge(lease, charged_to)

    # ------------------------------------------------- what could not be done

    def wanted_is_busy(self, port: int, now: float) -> None:
        """A port without a lease, which somebody wants, cannot be bound."""
        if port in self._ports and self._leases.at_port(port) is None:
            self._unleased.busy(port, now)
            self._leases.changed[port] = None

    def move_from_busy(self, grant: Grant, now: float) -> None:
        """The port of a current grant cannot be bound: somebody outside has it. Move to another.

        Raises RefusedError when there is none. A fresh lease is gone then; any other is
        remembered with its port, which may be free again in time, or parked again.
        """
        lease, busy = grant.lease, grant.lease.port
        try:
            port = self._port_for(lease.owner, now, grant.choice)
        except RefusedError:
            if grant.fresh:
                self._leases.remove(lease)
                self._unleased.busy(busy, now)
            elif self._is_from_outside(grant):
                self._park_again(grant, now)
                self._unleased.busy(busy, now)
            else:
                self.holding_ended(lease.owner, grant.generation, now)
            raise
        if grant.fresh or self._is_from_outside(grant):  # the busy one was never this owner's
            self._change_port(lease, port, now)
            self._unleased.busy(busy, now)
        else:
            self._ended(replace(lease), now, "moved")
            self._change_port(lease, port, now)
            self._unleased.busy_of(busy, lease.owner, now, now + self.times.quarantine)

    def _is_from_outside(self, grant: Grant) -> bool:
        """Its lease was parked before."""
        return grant.moved_from is not None and grant.moved_from not in self._ports

    def _park_again(self, grant: Grant, now: float) -> None:
        """Undo what was granted to the owner of a parked lease."""
        lease, home = grant.lease, grant.moved_from
        assert home is not None, "it was parked there"
        self._unleased.leave_outside(home)
        self._leases.set_port(lease, home)
        lease.homes = tuple(port for port in lease.homes if port != home)
        lease.heard_at = now
        lease.promised_until, lease.expires_at = self.ends(lease, now)
        self._leases.set_state(lease, LeaseState.PARKED)

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
        if self._is_from_outside(grant):
            self._park_again(grant, now)
            self._unleased.give_back(port, now)
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

    def stop_waiting(self, lease: Lease) -> None:
        """Unbind the port of a lease that is held: nobody may wait for its node any more."""
        if lease.state is LeaseState.HELD:
            self._leases.set_state(lease, LeaseState.REMEMBERED)

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
