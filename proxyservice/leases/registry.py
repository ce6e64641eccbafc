"""The Twisted service over table and store: bind, commit, announce.

Knows when (a clock) and whose connection holds what; the rules are the
table's, the rows `record.py`'s, the order of writes `commits.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from proxyservice.errors import RefusedError, StoreError
from proxyservice.leases.commits import RETRY_SECONDS, GroupCommits
from proxyservice.leases.lease import (
    ANY_PORT,
    BOUND_STATES,
    NOTHING_SHOWN,
    Grant,
    Lease,
    LeaseQuota,
    LeaseState,
    LeaseTimes,
    Owner,
    PortChoice,
    Shown,
)
from proxyservice.leases.lines import LINES_PER_SECOND, LeaseLines
from proxyservice.leases.record import LeaseRecord
from proxyservice.leases.store import LeaseStore
from proxyservice.leases.table import nobodys
from proxyservice.leases.unleased import BUSY_SECONDS
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.identity import key_fingerprint

TICK_SECONDS = 1.0
BINDS_PER_TURN = 64
"""Failing binds in one reactor turn, some 20 us each."""

HISTORY_SECONDS = 90 * 86400.0

REVIEWED_PER_TURN = 512
"""Leases that are judged by changed files in one reactor turn, some 10 us each."""

log = Logger()


class PortBinder(Protocol):
    """Whoever owns the listening sockets."""

    def bind(self, port: int) -> None:
        """Listen; already bound is fine. Raises OSError."""

    def unbind(self, port: int) -> None:
        """Stop listening; not bound is fine."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the operator's files say of a lease."""

    charged_to: str  # what it counts for
    admitted: bool = True  # its node would be let in: visitors may wait for it
    revoked: bool = False  # its node is not to come back: the lease ends


class Holder(Protocol):
    """The holder of a lease: one main connection."""

    def lease_lost(self, lease: Lease, outcome: str) -> None:
        """The holding that `lease` shows (a copy, with its port and generation) is over.

        `taken_over`: another holder has it now. `moved`: this holder asked for another port and
        has that. `released`: it gave it back. `revoked`: the operator ended it.
        `lost`: another program took its port while it moved, and it could not move.
        """


class LeaseRegistry(Service):
    """All leases of one service, on the ports of a range; `wall` is the wall clock."""

    def __init__(
        self,
        reactor: Any,
        store: LeaseStore,
        ports: range,
        times: LeaseTimes,
        binder: PortBinder,
        wall: Callable[[], float] = time.time,
        history_seconds: float = HISTORY_SECONDS,
        lines_per_second: float = LINES_PER_SECOND,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._ports = ports
        self._times = times
        self._binder = binder
        self._holders: dict[Owner, Holder] = {}
        self._record = LeaseRecord(reactor, store, times, wall, history_seconds)
        self._commits = GroupCommits(
            reactor, self._record.collect, store.write, self._record.written
        )
        self._reserved: frozenset[int] = frozenset()
        self._on_own_port: Callable[[Lease], bool] = nobodys
        self._judge: Callable[[Lease], Judgement] | None = None
        self._lines = LeaseLines(log.info, lines_per_second)
        self._tick: Any = None

    # -------------------------------------------------------- start and stop

    def startService(self) -> None:
        """Open the store and read it, before the reactor runs. Raises StoreError."""
        self._table = self._record.open(self._ports)
        self._table.reserve(self._reserved, self._reactor.seconds(), self._on_own_port)
        self._commits.start()
        if self._judge is not None:
            self._review(list(self._table), self._judge)
        self._tick = self._reactor.callLater(TICK_SECONDS, self._ticked)
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Write what is not written, and end the store's thread."""
        super().stopService()
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        self._record.end()
        self._commits.mark(self._record.due_rows(self._reactor.seconds()))
        return self._commits.stop().addCallback(lambda _: self._store.close())

    def abandon_start(self) -> None:
        """Another part could not start, and the reactor will never run."""
        self._store.close()

    # ------------------------------------------------------------- questions

    def counts(self) -> dict[str, int]:
        """How many ports are in which state."""
        return self._table.counts()

    @property
    def store_failures(self) -> int:
        """Writes that failed, since the start."""
        return self._commits.failures

    @property
    def store_failing(self) -> bool:
        """The last write failed: new leases are refused, what there is goes on."""
        return self._commits.failing

    def visited(self, port: int) -> tuple[Lease, Holder | None] | None:
        """Whose visitors come to this port; the holder is None while the lease is held."""
        lease = self._table.at_port(port)
        if lease is None or lease.state not in BOUND_STATES:
            return None
        return lease, self._holders.get(lease.owner)

    def port_of(self, owner: Owner) -> int | None:
        """The port of an owner's lease, in any state."""
        lease = self._table.of_owner(owner)
        return None if lease is None else lease.port

    def is_new(self, owner: Owner, wanted_port: int | None) -> bool:
        """Whether this request would begin a lease, or move one as its node wishes."""
        lease = self._table.of_owner(owner)
        return lease is None or wanted_port not in (None, lease.port)

    def has_port(self) -> bool:
        """An owner without a lease would find a port now, if it can be bound."""
        return self._table.has_port(self._reactor.seconds())

    def is_reserved(self, port: int) -> bool:
        """It is given by its number alone."""
        return port in self._reserved

    @property
    def parked(self) -> int:
        """How many leases have their port outside the range."""
        return self._table.parked

    def reserve(
        self, ports: frozenset[int], on_own_port: Callable[[Lease], bool] = nobodys
    ) -> None:
        """From now on these are given to whoever wants them by number, and to nobody else.

        A lease that is `on_own_port` there never expires.
        """
        self._reserved, self._on_own_port = ports, on_own_port
        if self.running:
            self._table.reserve(ports, self._reactor.seconds(), on_own_port)
            self._note_changes()

    def review(self, judge: Callable[[Lease], Judgement]) -> None:
        """The operator's files have changed: what they say holds for every lease without a holder.

        Who is connected is looked after by its connection. What is many is cut into turns.
        """
        if self.running:
            self._review(list(self._table), judge)
        self._judge = judge

    def _review(self, leases: list[Lease], judge: Callable[[Lease], Judgement]) -> None:
        now, revoked = self._reactor.seconds(), 0
        for lease in leases[:REVIEWED_PER_TURN]:
            if self._table.of_owner(lease.owner) is not lease:
                continue  # it has ended meanwhile
            revoked += self._judged(lease, judge(lease), now)
        self._note_changes()
        if revoked:
            log.info(
                "leases ended: {count}, whose nodes the relay's files do not admit any more",
                count=revoked,
            )
        if self._commits.needed and self.running:
            self._commits.in_background()
        rest = leases[REVIEWED_PER_TURN:]
        if rest:
            self._reactor.callLater(0, self._review_rest, rest, judge)

    def _review_rest(self, rest: list[Lease], judge: Callable[[Lease], Judgement]) -> None:
        if self.running:
            self._review(rest, judge)

    def _judged(self, lease: Lease, judgement: Judgement, now: float) -> bool:
        """Act on it; whether the lease has ended. Who is connected is cut by its connection."""
        self._table.charge(lease, judgement.charged_to)
        if lease.state is LeaseState.LIVE:
            return False
        if judgement.revoked:
            self._table.revoke(lease.owner, now)
        elif not judgement.admitted:
            self._table.stop_waiting(lease)
        return judgement.revoked

    def live(self, owner: Owner) -> tuple[Lease, Holder] | None:
        """The lease of an owner and who holds it; None while nobody does."""
        lease, holder = self._table.of_owner(owner), self._holders.get(owner)
        return None if lease is None or holder is None else (lease, holder)

    # -------------------------------------------------------------- granting

    @inlineCallbacks
    def acquire(
        self,
        owner: Owner,
        holder: Holder,
        source: str,
        *,
        wanted_port: int | None = None,
        label: str = "",
        limits: LeaseQuota | None = None,
        charged_to: str | None = None,
        choice: PortChoice = ANY_PORT,
        shown: Shown = NOTHING_SHOWN,
    ) -> Generator[Deferred[Any], Any, Grant]:
        """Grant, bind, commit; fires with the grant. Fails with RefusedError.

        Each grant begins a new generation, also for the holder that has the lease already.
        """
        stored = self._record.port_of(owner)
        moves = wanted_port not in (None, stored) or self._is_parked(owner)
        if self._commits.failing and (stored is None or moves):
            raise unstorable()
        if wanted_port is not None:
            self._bind_wanted(owner, wanted_port)
        else:
            wanted_port = yield from self._bind_place(owner, choice)
        before = self._held_by(owner, holder)
        grant = self._grant(
            owner,
            holder,
            source,
            wanted_port=wanted_port,
            label=label,
            limits=limits,
            charged_to=charged_to,
            choice=choice,
            shown=shown,
        )
        try:
            yield from self._bind(grant)
            yield self._commits.commit()
        except StoreError:
            self._not_stored(grant, before)
        if not self._table.is_current(grant):
            raise self._overtaken(grant)
        self.say(
            "leased port {port} to {key} at {source}",
            port=grant.lease.port,
            key=key_fingerprint(owner.identity.net_key),
            source=source,
        )
        return grant

    def _is_parked(self, owner: Owner) -> bool:
        lease = self._table.of_owner(owner)
        return lease is not None and lease.state is LeaseState.PARKED

    def say(self, line: str, **fields: object) -> None:
        """Tell the log about a lease, or count the line: who is let in causes them at will."""
        self._lines.say(self._reactor.seconds(), line, **fields)

    def _bind_place(
        self, owner: Owner, choice: PortChoice
    ) -> Generator[Deferred[Any], Any, int | None]:
        """The port that a lease has to move to by its rules, bound; None: it need not.

        One that another program has is left out. Raises RefusedError.
        """
        tries = 0
        while True:
            port = self._table.place_for(owner, choice)
            if port is None:
                return None
            try:
                self._bind_wanted(owner, port)
            except RefusedError:
                tries += 1  # it is busy now, and the next is another
                if tries % BINDS_PER_TURN == 0:
                    yield deferLater(self._reactor, 0)
            else:
                return port

    def _bind_wanted(self, owner: Owner, port: int) -> None:
        """Before anything else changes: what cannot be bound leaves the lease where it is."""
        now = self._reactor.seconds()
        self._table.pass_time(now)
        self._note_changes()
        self._table.check_wanted(owner, port)
        try:
            self._binder.bind(port)
        except OSError as error:
            log.warn("port {port} is busy: {error}", port=port, error=error)
            self._table.wanted_is_busy(port, now)
            self._note_changes()
            reason = f"port {port} is in use by another program: ask for another, or for any"
            raise RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, reason, BUSY_SECONDS) from None

    def _grant(
        self,
        owner: Owner,
        holder: Holder,
        source: str,
        *,
        wanted_port: int | None,
        **charge: Any,
    ) -> Grant:
        lease = self._table.of_owner(owner)
        before = None if lease is None else replace(lease)
        now = self._reactor.seconds()
        try:
            grant = self._table.acquire(owner, now, source, wanted_port=wanted_port, **charge)
        except RefusedError:
            self._unbind_unused([] if wanted_port is None else [wanted_port])
            raise
        finally:
            self._note_changes()  # a refusal changes nothing, but the time that passed may
        if grant.moved_from is not None:
            new = grant.lease.port
            self.say("moved from port {old} to {new}", old=grant.moved_from, new=new)
        former, self._holders[owner] = self._holders.get(owner), holder
        if former is not None and before is not None:
            self._tell_former(former, holder, before, grant)
        return grant

    def _tell_former(self, former: Holder, holder: Holder, before: Lease, grant: Grant) -> None:
        if former is not holder:
            source = grant.lease.source
            self.say("taken over port {port} by {source}", port=before.port, source=source)
            former.lease_lost(before, "taken_over")
        elif grant.moved_from is not None:
            former.lease_lost(before, "moved")

    def _bind(self, grant: Grant) -> Generator[Deferred[Any], Any, None]:
        """Bind the lease's port, or move it to one that can be bound. Raises RefusedError."""
        lease, tries = grant.lease, 0
        while self._table.is_current(grant):
            try:
                self._binder.bind(lease.port)
                return
            except OSError as error:
                log.warn("port {port} is busy: {error}", port=lease.port, error=error)
            try:
                self._table.move_from_busy(grant, self._reactor.seconds())
            except RefusedError:
                del self._holders[lease.owner]
                raise
            finally:
                self._note_changes()
            if not grant.fresh:
                log.warn("moved a lease to port {port}, its own is busy", port=lease.port)
            tries += 1
            if tries % BINDS_PER_TURN == 0:
                yield deferLater(self._reactor, 0)

    def _held_by(self, owner: Owner, holder: Holder) -> int | None:
        """The generation that this holder has the lease in."""
        live = self.live(owner)
        return live[0].generation if live is not None and live[1] is holder else None

    def _not_stored(self, grant: Grant, before: int | None) -> None:
        """Serve a lease that is on disk already; any other grant is undone and refused.

        Who wanted to move keeps the lease where it is, in the generation it had `before`.
        """
        owner = grant.lease.owner
        stored = self._record.port_of(owner)
        if not self._table.is_current(grant) or stored == grant.lease.port:
            return
        # What is not on disk at all was never announced, by an earlier grant either.
        undone = grant if stored is not None else replace(grant, fresh=True)
        self._table.undo(undone, self._reactor.seconds(), resumes=before)
        if before is None or undone.fresh:
            del self._holders[owner]
        elif not self._bound_again(grant.lease):
            self._holders.pop(owner).lease_lost(replace(grant.lease), "lost")
        self._note_changes()
        raise unstorable()

    def _bound_again(self, lease: Lease) -> bool:
        """It listens as it did before its move; else it is remembered, as if its node had gone."""
        try:
            self._binder.bind(lease.port)
        except OSError as error:
            log.warn("port {port} is busy: {error}", port=lease.port, error=error)
            self._table.holding_ended(lease.owner, lease.generation, self._reactor.seconds())
            return False
        return True

    def _overtaken(self, grant: Grant) -> RefusedError:
        if self._table.of_owner(grant.lease.owner) is None:
            return RefusedError(pb.REFUSAL_DENIED, "the lease was revoked")
        return RefusedError(pb.REFUSAL_SUPERSEDED, "a newer request took over")

    # ---------------------------------------------------------------- ending

    def holding_ended(
        self, owner: Owner, generation: int, *, hold: bool = False, messages: bool = False
    ) -> None:
        """The holder's connection is gone; a past generation's end changes nothing.

        With `hold` the port stays bound, and visitors may wait: for `LeaseTimes.hold_messages`
        when the lease carries `messages`, else for `LeaseTimes.hold`.
        """
        now = self._reactor.seconds()
        if not self._table.holding_ended(owner, generation, now, hold=hold, messages=messages):
            return
        lease = self._table.of_owner(owner)
        assert lease is not None, "it was live a moment ago"
        del self._holders[owner]
        now = self._reactor.seconds()
        # It may be gone because it is not admitted any more.
        if self._judge is None or not self._judged(lease, self._judge(lease), now):
            self.say(
                "node gone from port {port}, remembered for {seconds:.0f} s",
                port=lease.port,
                seconds=self._times.ttl,
            )
        self._note_changes()
        self._commits.in_background()

    @inlineCallbacks
    def release(self, owner: Owner, generation: int) -> Generator[Deferred[Any], Any, None]:
        """The holder gives its lease back; fires when that is on disk.

        A past generation changes nothing. Fails with RefusedError when the store cannot be
        written: the lease has ended all the same, and that is written as soon as it can be.
        """
        lease = self._table.release(owner, generation, self._reactor.seconds())
        if lease is None:
            return
        self._lost(lease, "released")
        try:
            yield self._commits.commit()
        except StoreError:
            raise unstorable() from None

    def revoke(self, match: Callable[[Owner], bool]) -> int:
        """The operator ends all leases of owners that match; how many they were."""
        leases = [lease for lease in self._table if match(lease.owner)]
        for lease in leases:
            self._table.revoke(lease.owner, self._reactor.seconds())
            self._lost(lease, "revoked")
        if leases:
            self._commits.in_background()
        return len(leases)

    def _lost(self, lease: Lease, outcome: str) -> None:
        """A lease has left the table."""
        self._note_changes()
        holder = self._holders.pop(lease.owner, None)
        if holder is not None:
            holder.lease_lost(lease, outcome)

    # ----------------------------------------------------- changes, and time

    def _note_changes(self) -> None:
        """Close what must not listen any more, and mark what is to be written."""
        changes = self._table.take_changes()
        self._unbind_unused(changes.ports)
        for ended in changes.ended:
            if ended.outcome != "moved":  # that one is told with its new port
                self.say("{outcome} port {port}", outcome=ended.outcome, port=ended.lease.port)
        self._record.ended(changes.ended)
        self._commits.mark(changes)

    def _unbind_unused(self, ports: Iterable[int]) -> None:
        for port in ports:
            lease = self._table.at_port(port)
            if lease is None or lease.state not in BOUND_STATES:
                self._binder.unbind(port)

    def _ticked(self) -> None:
        now = self._reactor.seconds()
        more = self._table.pass_time(now)
        self._tick = self._reactor.callLater(0 if more else TICK_SECONDS, self._ticked)
        self._note_changes()
        self._commits.mark(self._record.due_rows(now))
        if self._commits.needed or self._record.is_due(now):
            self._commits.in_background()


def unstorable() -> RefusedError:
    """Nothing is announced that a crash would lose."""
    reason = "the lease cannot be stored now: the relay's log says why"
    return RefusedError(pb.REFUSAL_EXHAUSTED, reason, RETRY_SECONDS)
