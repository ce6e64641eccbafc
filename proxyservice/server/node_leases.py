"""The leases that one main connection holds.

Between a node's requests and the registry: it answers what is already held,
asks for what is not, and closes the visitors of what is lost. Frames and
transports are `main.py`'s, who comes to a lease is `lease_visitors.py`'s. A
part-A node has one lease for each connection: a further request, whatever its
origin address, hears the same address again. A node of part B has one for each
origin address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Grant, Lease, Owner
from proxyservice.server.lease_request import LeaseRequest
from proxyservice.server.lease_visitors import Holding, LeaseVisitors
from proxyservice.server.port_choice import check_wish
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from proxyservice.wire.work import GRANT_UNITS

if TYPE_CHECKING:
    from proxyservice.server.factory import MainFactory
    from proxyservice.server.main import MainConnection


MODE_DENIED = "the relay's policy does not allow this mode: `modes` in --policy has those it does"

FULL_RETRY_SECONDS = 5.0
"""A node that finds no descriptor left may ask again after this long."""


class NodeLeases:
    """One per main connection; it is the registry's `Holder`."""

    def __init__(self, connection: MainConnection, factory: MainFactory) -> None:
        self._connection = connection
        self._factory = factory
        self._holdings: dict[str, Holding] = {}  # by origin address
        self._pending = 0
        self._owed: list[Callable[[], object]] = []  # answers that wait for a grant, in order
        self.owed_bytes = 0
        """What these answers keep."""
        self._back_in_seconds: float | None = None  # set: the service is about to stop
        self._queued: Holding | None = None  # its request waits for a port
        self._waits_since: float | None = None  # for a port, perhaps with a try meanwhile
        self._hold = True  # visitors may wait for this node when it goes
        self._visitors = LeaseVisitors(connection, factory, self.close_if_drained)

    @property
    def connection(self) -> MainConnection:
        """Whose leases they are."""
        return self._connection

    @property
    def any(self) -> bool:
        """A lease is held, or asked for."""
        return bool(self._holdings)

    @property
    def waits_for_port(self) -> bool:
        """None was left for this node of part A: it is answered when there is one."""
        return self._queued is not None

    @property
    def pending(self) -> bool:
        """A grant is on its way; answers to what came after it wait for it."""
        return self._pending > 0

    def after_grant(self, answer: Callable[[], object], n_bytes: int = 0) -> None:
        """Answer once the grant is announced; beyond the bound an answer is dropped.

        It keeps ``n_bytes`` of what the node sent until then.
        """
        if len(self._owed) < self._factory.settings.limits.pending_requests:
            self._owed.append(answer)
            self.owed_bytes += n_bytes
            self._connection.owes()

    # -------------------------------------------------------------- requests

    def request(self, request: LeaseRequest) -> None:
        """Answer from what is held, or ask the registry. Raises RefusedError."""
        part_b = request.nonce is not None
        if part_b and self._back_in_seconds is not None:
            why = "the relay is about to stop"
            raise RefusedError(pb.REFUSAL_DRAINING, why, self._back_in_seconds)
        holding = self._holdings.get(request.origin) if part_b else self._only() or self._queued
        if holding is None:
            self._check_mode(request, None)
            identity = self._connection.identity
            assert identity is not None
            holding = Holding(Owner(identity, request.origin), request.mode)
            self._holdings[request.origin] = holding
            self._ask(holding, request)
        elif holding.grant is None:
            if len(holding.waiting) < self._factory.settings.limits.pending_requests:
                holding.waiting.append(request)
        else:
            self._again(holding, holding.grant, request)

    def _only(self) -> Holding | None:
        return next(iter(self._holdings.values()), None)

    def _again(self, holding: Holding, grant: Grant, request: LeaseRequest) -> None:
        """The same lease is asked for once more: perhaps in another mode or on another port."""
        if request.nonce is not None and request.mode != holding.mode:
            self._check_mode(request, holding)
            holding.mode = request.mode
            holding.close_visitors()
        if request.wanted_port not in (None, grant.lease.port):
            self._ask(holding, request)
        else:
            self._announce(holding, grant, request)

    def _check_mode(self, request: LeaseRequest, own: Holding | None) -> None:
        """Streams need the feature; frames do not name a lease, so one lease may have them."""
        if not self._connection.rules.allows_mode(request.mode):
            raise RefusedError(pb.REFUSAL_DENIED, MODE_DENIED)
        if request.mode == pb.MODE_STREAMS:
            if self._connection.switch is None:
                raise RefusedError(pb.REFUSAL_DENIED, "streams were not agreed in Hello")
            return
        for holding in self._holdings.values():
            if holding is not own and holding.mode == pb.MODE_MESSAGES:
                raise RefusedError(pb.REFUSAL_QUOTA, "one connection has one message lease")

    def _ask(self, holding: Holding, request: LeaseRequest) -> None:
        holding.waiting.append(request)
        self._connection.charge(GRANT_UNITS)
        before, holding.grant = holding.grant, None
        self._pending += 1
        allowed = self._factory.takeovers.may_take(holding.owner, self)
        granted: Deferred[Grant] = allowed.addCallback(lambda _: self._acquire(holding, request))
        granted.addCallbacks(self._granted, self._refused, (holding,), {}, (holding, before), {})
        granted.addErrback(self._connection.broken)

    def _acquire(self, holding: Holding, request: LeaseRequest) -> Deferred[Grant]:
        if self._holdings.get(holding.owner.origin) is not holding:
            raise RefusedError(pb.REFUSAL_SUPERSEDED, "the request is over")  # nobody hears it
        self._factory.port_queue.serve()
        if not self._factory.take_port(self._connection):
            why = "the relay has no descriptor left for another port"
            raise RefusedError(pb.REFUSAL_EXHAUSTED, why, FULL_RETRY_SECONDS)
        factory, connection = self._factory, self._connection
        registry, rules = factory.registry, connection.rules
        owner, charged_to = holding.owner, factory.access.charged_to(connection.caller)
        check_wish(registry, request.wanted_port, rules)
        changes = registry.is_new(owner, request.wanted_port)
        if changes:
            factory.lease_changes.check(owner.identity, connection.source, charged_to)
        granted = registry.acquire(
            owner,
            self,
            connection.source,
            wanted_port=request.wanted_port,
            label=request.label,
            limits=factory.quota(connection),
            charged_to=charged_to,
            choice=rules.port_choice,
            shown=connection.caller.shown,
        )
        if changes and not registry.is_new(owner, request.wanted_port):  # else it was refused
            factory.lease_changes.count(owner.identity, connection.source, charged_to)
        return granted

    def _granted(self, grant: Grant, holding: Holding) -> None:
        self._pending -= 1
        if self._holdings.get(holding.owner.origin) is not holding:
            self._ended_meanwhile(holding, grant)
            return
        holding.grant = grant
        self._waits_since = None
        self._factory.takeovers.cut_holders.is_back(holding.owner)
        self._factory.waiting_room.callers[grant.lease.port] = self._connection.caller
        requests, holding.waiting = holding.waiting, []
        for request in requests:
            self._announce(holding, grant, request)
        self._pay()
        self._visitors.admit_who_waited(holding, grant.lease)

    def _ended_meanwhile(self, holding: Holding, grant: Grant) -> None:
        """The answer came when nobody waited for it any more."""
        if holding.unwanted:
            released = self._factory.registry.release(holding.owner, grant.generation)
            # That it cannot be stored now is nobody's to hear: the node was answered long ago.
            released.addErrback(lambda failure: failure.trap(RefusedError) and None)
            released.addErrback(self._connection.broken)
            return
        hold = self._connection.closing and self._waits(holding)
        self._holding_ended(holding, grant, hold=hold)

    def _holding_ended(self, holding: Holding, grant: Grant, *, hold: bool) -> None:
        """The connection has gone; with `hold` visitors may wait for the next one."""
        if hold:
            self._factory.waiting_room.hold(grant.lease.port, holding.mode)
        self._factory.registry.holding_ended(
            holding.owner,
            grant.generation,
            hold=hold,
            messages=holding.mode == pb.MODE_MESSAGES,
        )

    def _waits(self, holding: Holding) -> bool:
        """Visitors may wait for the node to come back."""
        return self._hold and self._hold_seconds(holding) > 0

    def _hold_seconds(self, holding: Holding) -> float:
        times = self._factory.settings.times
        return times.hold if holding.mode == pb.MODE_STREAMS else times.hold_messages

    def _refused(self, failure: Failure, holding: Holding, before: Grant | None) -> None:
        failure.trap(RefusedError)
        self._pending -= 1
        if self._holdings.get(holding.owner.origin) is not holding:
            if before is not None:
                self._ended_meanwhile(holding, before)
            return
        error = cast("RefusedError", failure.value)
        requests, holding.waiting = holding.waiting, []
        holding.grant = before
        if before is None:
            del self._holdings[holding.owner.origin]
        if error.code == pb.REFUSAL_EXHAUSTED and self._connection.handshake is None:
            self._wait_for_port(holding, requests, error)
            return
        left_without = error.code == pb.REFUSAL_SUPERSEDED and not self._holdings
        for request in requests:
            if request.nonce is None or left_without:
                self._connection.refuse(error)
                return
            self._connection.refuse_request(error, request.nonce)
        self._pay()
        if before is not None:
            self._visitors.admit_who_waited(holding, before.lease)

    def _wait_for_port(
        self, holding: Holding, requests: list[LeaseRequest], error: RefusedError
    ) -> None:
        self._queued, holding.waiting = holding, requests
        self._pay()
        connection, since = self._connection, self._waits_since
        if since is None:
            self._factory.refusals.waits(connection.source, error.reason)
        self._waits_since = self._factory.wait_for_port(connection, holding.owner, since)

    def ask_again(self) -> None:
        """There may be a port for the request that waits."""
        holding, self._queued = self._queued, None
        assert holding is not None, "nothing waits"
        self._holdings[holding.owner.origin] = holding
        self._ask(holding, holding.waiting.pop(0))

    def waited_in_vain(self, error: RefusedError) -> None:
        """The request that waits is not answered."""
        self._queued = None
        self._factory.refused(self._connection, error)
        self._connection.close()

    def _pay(self) -> None:
        """Give the answers that waited for a grant."""
        if not self._pending:
            owed, self._owed, self.owed_bytes = self._owed, [], 0
            for answer in owed:
                answer()
            self._connection.owes()

    def _announce(self, holding: Holding, grant: Grant, request: LeaseRequest) -> None:
        holding.nonce = request.nonce
        answer = pb.ProxyResponse(
            origin_address=request.origin, proxy_address=self._connection.proxy_address(grant.lease)
        )
        if request.nonce is not None:
            times, proved = self._factory.settings.times, holding.owner.identity.proved
            answer.expires_in_ms = int((times.proved_ttl if proved else times.ttl) * 1000)
            answer.hold_ms = int(self._hold_seconds(holding) * 1000)
            answer.generation = grant.generation
            answer.mode = cast("pb.Mode", holding.mode)
        self._connection.answer(Opcode.PROXY_RESPONSE, answer, request.nonce)

    # --------------------------------------------------------------- the end

    def release(self, origin: str, nonce: int) -> None:
        """Give a lease back, or confirm that it is not held: both are what the node wants."""
        holding = self._holdings.pop(origin, None)
        answer = pb.Release(origin_address=origin)
        if holding is None or holding.grant is None:
            if holding is not None:
                holding.unwanted = True
            self._connection.answer(Opcode.RELEASE, answer, nonce)
            return
        holding.close_visitors()
        released = self._factory.registry.release(holding.owner, holding.grant.generation)
        released.addCallbacks(
            lambda _: self._connection.answer(Opcode.RELEASE, answer, nonce),
            lambda failure: self._not_released(failure, nonce),
        )
        released.addErrback(self._connection.broken)

    def _not_released(self, failure: Failure, nonce: int) -> None:
        failure.trap(RefusedError)
        self._connection.refuse_request(cast("RefusedError", failure.value), nonce)

    def lease_lost(self, lease: Lease, outcome: str) -> None:
        """The registry's word that a holding is over.

        Part A cannot be told, and holds one lease: its connection ends. A node
        of part B is told; without any lease left it is asked to leave.
        """
        holding = self._holdings.get(lease.owner.origin)
        if holding is None:
            return
        if outcome != "moved":
            del self._holdings[lease.owner.origin]
        if outcome == "taken_over" and self._waits(holding):
            self._visitors.keep_waiting(holding, lease.port)  # for the one that has it now
        holding.close_visitors()
        if outcome == "moved":
            return  # as this node asked: the answer to its request names the new port
        if self._connection.handshake is None:
            self._connection.abort(outcome)
            return
        code, why = pb.REFUSAL_DENIED, f"the lease was {outcome}"
        if outcome == "taken_over":
            code, why = pb.REFUSAL_SUPERSEDED, f"taken over by another node at {lease.source}"
        error = RefusedError(code, why)
        if not self._holdings:
            self._connection.refuse(error)
            return
        for nonce in (holding.nonce, *(request.nonce for request in holding.waiting)):
            if nonce is not None:
                self._connection.refuse_request(error, nonce)

    def rules_changed(self) -> None:
        """The operator's files say something else: it holds for who is there, from now on."""
        for holding in self._holdings.values():
            self._visitors.rules_changed(holding)

    def let_go(self, *, hold: bool = True) -> None:
        """The connection ends; what comes late for it finds nothing here.

        Without `hold` its ports are closed now, and nobody waits for the node.
        """
        self._hold = self._hold and hold
        self._queued = None
        self._factory.port_queue.forget(self)
        holdings, self._holdings = self._holdings, {}
        self._owed, self.owed_bytes = [], 0
        for holding in holdings.values():
            if holding.grant is not None and self._waits(holding):
                self._visitors.keep_waiting(holding, holding.grant.lease.port)
            holding.close_visitors()
            if holding.grant is not None:
                self._holding_ended(holding, holding.grant, hold=self._waits(holding))

    # -------------------------------------------------------------- visitors

    @property
    def visitors(self) -> int:
        """How many there are."""
        return sum(len(holding.visitors) for holding in self._holdings.values())

    def drain(self, back_in_seconds: float) -> None:
        """No new lease, no new visitor; the connection closes when the last one has finished.

        Streams have an end of their own; of messages the one that is under way is waited for.
        """
        self._back_in_seconds = back_in_seconds
        for holding in self._holdings.values():
            holding.finish_messages()
        self.close_if_drained()

    def close_if_drained(self) -> None:
        """After `drain`: nothing is under way any more, and the node knows how all of it ended."""
        if self._back_in_seconds is None or self.visitors:
            return
        switch = self._connection.switch
        if switch is None or not switch.multiplexer.owes:
            self._connection.close()

    def cut(self) -> None:
        """The relay ends the connection of a node that may well be alive.

        Whoever has brought it to that must not have its claimed leases for it.
        """
        takeovers, connection = self._factory.takeovers, self._connection
        for holding in self._holdings.values():
            if holding.grant is not None and not holding.owner.identity.proved:
                takeovers.cut_holders.cut(holding.owner, connection.source, self._factory.now())

    def visitor_arrived(self, lease: Lease, host: str, port: int) -> Protocol | None:
        """Somebody connected to `lease`; None turns it away."""
        holding = self._holdings.get(lease.owner.origin)
        return None if holding is None else self._visitors.arrived(holding, lease, host, port)
