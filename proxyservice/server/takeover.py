"""Whether a newcomer may displace a live holder; asked before the registry is.

From the holder's own address, or once nobody holds the lease: at once. From
elsewhere a proved key may, so often; a claimed identity may only when its
holder does not answer, for everybody knows what it takes to claim it. And when
it was the relay that ended a claimed holder's connection, because that one
could be made to take nothing, its lease waits for its own address. Knows no
rows and no ports.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred, fail, succeed

from proxyservice.errors import RefusedError
from proxyservice.leases.buckets import Buckets
from proxyservice.leases.lease import Lease, Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.net.acknowledged import acknowledged_bytes
from proxyservice.net.deadlines import Deadlines
from proxyservice.net.tcp_answers import tcp_answers
from proxyservice.server.limits import ServiceLimits
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode

if TYPE_CHECKING:
    from proxyservice.server.main import MainConnection
    from proxyservice.server.node_leases import NodeLeases

PROBE_SECONDS = 2.0
"""A living node's kernel acknowledges in one round trip; deployed nodes wait 3 s for an answer."""

LOOK_SECONDS = 0.25
"""How often a contested lease is looked at."""

RETRY_SECONDS = 30.0
"""A node that has really moved is let in once TCP has given the old connection up."""

MOST_CUT = 1 << 16
"""Leases that wait for the address of a holder that was cut: as many as there are ports."""


class LifeProbe:
    """One KeepaliveResponse, which harms nobody, and whether the holder's TCP answers.

    A holder that reads nothing can be alive, and anybody can bring it to that with one large
    frame: so an answer to TCP's own question whether it will read again is as good as one
    to the probe.
    """

    def __init__(self, connection: MainConnection, now: float) -> None:
        self._transport = connection.transport
        self._began = now
        self._before = acknowledged_bytes(self._transport)
        connection.answer(Opcode.KEEPALIVE_RESPONSE)
        outlet = connection.outlet
        outlet.flush()
        self._all_bytes = outlet.sent_bytes + outlet.queued_bytes

    def alive(self, now: float) -> bool | None:
        """None while it is not known."""
        acknowledged = acknowledged_bytes(self._transport)
        if acknowledged is None or self._before is None:
            return True  # this system cannot tell: whoever holds it keeps it
        if acknowledged >= self._all_bytes or acknowledged > self._before or self._answers(now):
            return True
        return None if now < self._began + PROBE_SECONDS else False

    def _answers(self, now: float) -> bool:
        """An acknowledgement of any kind came since; or the window is closed and TCP answers."""
        answers = tcp_answers(self._transport)
        if answers is None:
            return False  # what was acknowledged is all there is to see
        return answers.reads_nothing_and_lives or answers.heard_ago_seconds < now - self._began


class CutHolders:
    """Claimed leases whose holder the relay has cut, and the address that each waits for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sources: OrderedDict[Owner, tuple[str, float]] = OrderedDict()  # the first ends first

    def __len__(self) -> int:
        return len(self._sources)

    def cut(self, owner: Owner, source: str, now: float) -> None:
        """For as long as such a lease is remembered nobody else gets it."""
        self._forget(now)
        self._sources.pop(owner, None)
        self._sources[owner] = source, now + self._seconds

    def waits_for(self, owner: Owner, now: float) -> str | None:
        """The address whose lease it is; None: anybody's who claims it."""
        self._forget(now)
        return self._sources.get(owner, (None, 0.0))[0]

    def is_back(self, owner: Owner) -> None:
        """A holder is there again."""
        self._sources.pop(owner, None)

    def _forget(self, now: float) -> None:
        while self._sources:
            owner, (_, until) = next(iter(self._sources.items()))
            if now < until and len(self._sources) <= MOST_CUT:
                return
            del self._sources[owner]


class Takeovers:
    """All contests of one service; one newcomer waits for each lease at most, the latest."""

    def __init__(
        self,
        registry: LeaseRegistry,
        deadlines: Deadlines,
        now: Callable[[], float],
        limits: ServiceLimits,
        claimed_seconds: float,
    ) -> None:
        self.registry = registry
        self.cut_holders = CutHolders(claimed_seconds)
        self._limits = limits
        self._deadlines = deadlines
        self._now = now
        self._contenders: dict[Owner, _Contender] = {}
        self._taken_over = Buckets()

    def __len__(self) -> int:
        """Newcomers that wait, and leases that were taken over a while ago."""
        return len(self._contenders) + len(self._taken_over)

    def may_take(self, owner: Owner, newcomer: NodeLeases) -> Deferred[None]:
        """Fires when the newcomer may ask the registry; fails with RefusedError."""
        if self.contested(owner, newcomer) is None:
            refusal = self.refusal(owner, newcomer)
            return succeed(None) if refusal is None else fail(refusal)
        former = self._contenders.pop(owner, None)
        if former is not None:
            self._deadlines.forget(former)
            former.give_way()
        contender = _Contender(self, owner, newcomer)
        now = self._now()
        again = contender.deadline_passed(now)
        if again is not None:
            self._contenders[owner] = contender
            self._deadlines.set(contender, again)
        return contender.decided

    def contested(self, owner: Owner, newcomer: NodeLeases) -> tuple[Lease, NodeLeases] | None:
        """The lease and its holder, if that is somebody else in another place."""
        live = self.registry.live(owner)
        if live is None or live[1] is newcomer or live[0].source == newcomer.connection.source:
            return None
        return live[0], cast("NodeLeases", live[1])

    def refusal(self, owner: Owner, newcomer: NodeLeases) -> RefusedError | None:
        """Why the newcomer may not have a lease that nobody holds; None: it may."""
        source = newcomer.connection.source
        waits_for = self.cut_holders.waits_for(owner, self._now())
        if waits_for in (None, source):
            return None
        self.registry.say(
            "a claimed lease waits for {holder}: {source} does not get it",
            holder=waits_for,
            source=source,
        )
        reason = "the relay has cut the node that claims the same: it waits for that one's address"
        return RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, reason, RETRY_SECONDS)

    def count(self, owner: Owner, now: float) -> float:
        """One takeover more: 0, or how long it has to wait."""
        rate, burst = 1 / self._limits.takeover_seconds, self._limits.takeover_burst
        return self._taken_over.take(owner, now, rate, burst)

    def over(self, owner: Owner, contender: _Contender) -> None:
        """A contender waits no more."""
        if self._contenders.get(owner) is contender:
            del self._contenders[owner]


class _Contender:
    """One newcomer that wants the lease of a live holder in another place."""

    def __init__(self, takeovers: Takeovers, owner: Owner, newcomer: NodeLeases) -> None:
        self._takeovers = takeovers
        self._owner = owner
        self._newcomer = newcomer
        self._holder: NodeLeases | None = None
        self._probe: LifeProbe | None = None
        self.decided: Deferred[None] = Deferred()

    def give_way(self) -> None:
        """A later newcomer came."""
        later = RefusedError(pb.REFUSAL_SUPERSEDED, "a later connection waits for this address")
        self.decided.errback(later)

    def deadline_passed(self, now: float) -> float | None:
        """Look at the lease; return when to look again, None when it is decided."""
        contested = self._takeovers.contested(self._owner, self._newcomer)
        if self._newcomer.connection.closing:
            self._decide(None)
            return None
        if contested is None:
            self._decide(self._takeovers.refusal(self._owner, self._newcomer))
            return None
        lease, holder = contested
        alive = False if self._owner.identity.proved else self._alive(holder, now)
        if alive is None or (not alive and self._takeovers.count(self._owner, now) > 0):
            return now + LOOK_SECONDS
        self._decide(self._refused(lease) if alive else None)
        return None

    def _alive(self, holder: NodeLeases, now: float) -> bool | None:
        if self._probe is None or holder is not self._holder:
            self._holder, self._probe = holder, LifeProbe(holder.connection, now)
        return self._probe.alive(now)

    def _refused(self, lease: Lease) -> RefusedError:
        self._takeovers.registry.say(
            "the claimed holder of port {port} is alive: {source} does not get it",
            port=lease.port,
            source=self._newcomer.connection.source,
        )
        reason = "a node that claims the same is connected from elsewhere, and alive"
        return RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, reason, RETRY_SECONDS)

    def _decide(self, error: RefusedError | None) -> None:
        self._takeovers.over(self._owner, self)
        if error is None:
            self.decided.callback(None)
        else:
            self.decided.errback(error)
