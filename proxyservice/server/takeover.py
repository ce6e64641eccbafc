"""Whether a newcomer may displace a live holder; asked before the registry is.

From the holder's own address, or once nobody holds the lease: at once. From
elsewhere a proved key may, so often; a claimed identity may only when its
holder does not answer, for everybody knows what it takes to claim it. Knows
no rows and no ports.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Lease, Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.takeovers import TakeoverBucket
from proxyservice.net.acknowledged import acknowledged_bytes
from proxyservice.net.deadlines import Deadlines
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

log = Logger()


class LifeProbe:
    """One KeepaliveResponse, which harms nobody, and whether TCP acknowledges it."""

    def __init__(self, connection: MainConnection, now: float) -> None:
        self._transport = connection.transport
        self._until = now + PROBE_SECONDS
        self._before = acknowledged_bytes(self._transport)
        connection.answer(Opcode.KEEPALIVE_RESPONSE)
        outlet = connection.outlet
        outlet.flush()
        self._all_bytes = outlet.sent_bytes + outlet.queued_bytes

    def alive(self, now: float) -> bool | None:
        """None while it is not known.

        Before the time is up all that was sent has to be acknowledged; then any
        of it will do, for much may have been waiting.
        """
        acknowledged = acknowledged_bytes(self._transport)
        if acknowledged is None or self._before is None:
            return True  # this system cannot tell: whoever holds it keeps it
        if acknowledged >= self._all_bytes:
            return True
        return None if now < self._until else acknowledged > self._before


class Takeovers:
    """All contests of one service; one newcomer waits for each lease at most, the latest."""

    def __init__(
        self,
        registry: LeaseRegistry,
        deadlines: Deadlines,
        now: Callable[[], float],
        limits: ServiceLimits,
    ) -> None:
        self.registry = registry
        self._limits = limits
        self._deadlines = deadlines
        self._now = now
        self._contenders: dict[Owner, _Contender] = {}
        self._buckets: OrderedDict[Owner, TakeoverBucket] = OrderedDict()

    def __len__(self) -> int:
        """Newcomers that wait, and leases that were taken over a while ago."""
        return len(self._contenders) + len(self._buckets)

    def may_take(self, owner: Owner, newcomer: NodeLeases) -> Deferred[None]:
        """Fires when the newcomer may ask the registry; fails with RefusedError."""
        if self.contested(owner, newcomer) is None:
            return succeed(None)
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

    def count(self, owner: Owner, now: float) -> float:
        """One takeover more: 0, or how long it has to wait."""
        bucket = self._buckets.pop(owner, None) or TakeoverBucket(
            self._limits.takeover_burst, self._limits.takeover_seconds
        )
        self._buckets[owner] = bucket
        for _ in range(2):
            oldest, waiting = next(iter(self._buckets.items()))
            if not waiting.is_full(now) or oldest == owner:
                break
            del self._buckets[oldest]
        return bucket.take(now)

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
        if self._newcomer.connection.closing or contested is None:
            self._decide(None)
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
        log.info(
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
