"""The lease that one main connection holds, and its visitors.

Between a node's requests and the registry: it answers what is already held,
asks for what is not, and closes the visitors of what is lost. Frames and
transports are `main.py`'s. A part-A node has one lease for each connection: a
further request, whatever its origin address, hears the same address again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Grant, Lease, Owner
from proxyservice.net.addresses import format_host_port
from proxyservice.server.relay_visitor import RelayVisitor
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode

if TYPE_CHECKING:
    from proxyservice.leases.lease import Identity
    from proxyservice.server.factory import MainFactory
    from proxyservice.server.main import MainConnection


class NodeLeases:
    """One per main connection; it is the registry's `Holder`."""

    def __init__(self, connection: MainConnection, factory: MainFactory) -> None:
        self._connection = connection
        self._factory = factory
        self._owner: Owner | None = None
        self._grant: Grant | None = None
        self._waiting: list[str] = []  # origin addresses of the requests to answer
        self._owed: list[Callable[[], None]] = []  # answers that wait for the grant, in order
        self._visitors: set[RelayVisitor] = set()

    @property
    def granted(self) -> bool:
        """A lease is held."""
        return self._grant is not None

    @property
    def pending(self) -> bool:
        """A grant is on its way; answers to what came after it wait for it."""
        return self._owner is not None and self._grant is None

    def after_grant(self, answer: Callable[[], None]) -> None:
        """Answer once the grant is announced; beyond the bound an answer is dropped."""
        if len(self._owed) < self._factory.limits.pending_requests:
            self._owed.append(answer)

    def request(self, identity: Identity, origin: str) -> None:
        """Answer from what is held, or ask the registry."""
        if self._grant is not None:
            self._announce(self._grant.lease, origin)
            return
        if len(self._waiting) < self._factory.limits.pending_requests:
            self._waiting.append(origin)
        if self._owner is None:
            owner = self._owner = Owner(identity, origin)
            granted = self._factory.registry.acquire(owner, self, self._connection.source)
            granted.addCallbacks(self._granted, self._refused)
            granted.addErrback(self._connection.broken)

    def _granted(self, grant: Grant) -> None:
        if self._owner is None:  # the connection ended meanwhile
            self._factory.registry.holding_ended(grant.lease.owner, grant.generation)
            return
        self._grant = grant
        origins, self._waiting = self._waiting, []
        for origin in origins:
            self._announce(grant.lease, origin)
        owed, self._owed = self._owed, []
        for answer in owed:
            answer()

    def _refused(self, failure: Failure) -> None:
        failure.trap(RefusedError)
        error = failure.value
        assert isinstance(error, RefusedError)
        if self._owner is not None:
            self._owner = None
            self._connection.refuse(error)

    def _announce(self, lease: Lease, origin: str) -> None:
        host = self._factory.public_host or self._connection.local_host
        answer = pb.ProxyResponse(
            origin_address=origin, proxy_address=format_host_port(host, lease.port)
        )
        self._connection.answer(Opcode.PROXY_RESPONSE, answer)

    def lease_lost(self, lease: Lease, outcome: str) -> None:
        """The registry's word that the holding is over: so is this connection."""
        self._grant = self._owner = None
        self._close_visitors()
        self._connection.abort(outcome)

    def let_go(self) -> None:
        """The connection ends; what comes late for it finds nothing here."""
        grant, self._grant, self._owner = self._grant, None, None
        self._close_visitors()
        if grant is not None:
            self._factory.registry.holding_ended(grant.lease.owner, grant.generation)

    def visitor_arrived(self, lease: Lease) -> RelayVisitor | None:
        """Somebody connected to `lease`; None turns it away."""
        if self._grant is None or self._grant.generation != lease.generation:
            return None
        if len(self._visitors) >= self._factory.limits.visitors_per_lease:
            self._factory.visitor_refused(lease, "too many visitors")
            return None
        outlet, gone = self._connection.outlet, self._visitors.discard
        visitor = self._factory.relay_visitor(outlet, lease, gone)
        self._visitors.add(visitor)
        return visitor

    def _close_visitors(self) -> None:
        for visitor in list(self._visitors):
            visitor.lease_gone()
        self._visitors.clear()
