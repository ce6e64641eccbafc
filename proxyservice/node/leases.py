"""All leases that a node wants, and the asking for them on its main connection."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.message import Message as ProtoMessage
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyservice.errors import FrameError, ProxyServiceError, RefusedError
from proxyservice.node.connection import NodeConnection
from proxyservice.node.dial import is_proxy_address
from proxyservice.node.events import NodeEvents
from proxyservice.node.finality import TREATMENTS, hint_seconds, is_final, is_superseded, kind_of
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.lease import NodeLease
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode

SHORTEST_RETRY_SECONDS = 1.0
"""Between two requests for the same lease on one connection."""

log = Logger()


class NodeLeases:
    """By origin address. What is wanted is asked for on every new connection."""

    def __init__(self, identity: NodeIdentity, events: NodeEvents, clock: Any) -> None:
        self._identity = identity
        self._events = events
        self._clock = clock
        self._wanted: dict[str, NodeLease] = {}
        self._connection: NodeConnection | None = None
        self.granted_at: float | None = None
        """When the present connection had its first lease granted; None before that."""
        self._refused_here: list[tuple[NodeLease, RefusedError]] = []
        """Final, if this relay grants anything at all; else another one may do better."""
        self.had_any = False
        """Since the node was made, on whatever connection."""

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def get(self, origin: str) -> NodeLease | None:
        """The lease of this origin address, if one is wanted."""
        return self._wanted.get(origin)

    def first(self, mode: pb.Mode) -> NodeLease | None:
        """The first lease in this mode, if there is one."""
        return next((lease for lease in self._wanted.values() if lease.mode == mode), None)

    def want(self, lease: NodeLease) -> None:
        """Ask for it as soon as there is a connection. Raises ValueError for what is there."""
        if lease.origin in self._wanted:
            raise ValueError(f"a lease of {lease.origin!r} is there already")
        self._wanted[lease.origin] = lease
        if self._connection is not None:
            self._ask(self._connection, lease)

    def release(self, lease: NodeLease) -> Deferred[None]:
        """Give it back; fires when that is done, or at once when the server cannot be told."""
        self._wanted.pop(lease.origin, None)
        lease.ask_no_more()
        connection = self._connection
        if connection is not None and self._refused_here and not self._has_others():
            connection.end(self._refused_here[-1][1])  # the answer that was waited for
        if connection is None or not lease.granted or connection.speaks_part_a:
            return succeed(None)
        lease.granted = False
        asked = connection.request(Opcode.RELEASE, pb.Release(origin_address=lease.origin))
        return asked.addBoth(lambda _: None)

    def connected(self, connection: NodeConnection) -> None:
        """Ask for everything on this connection."""
        self._connection = connection
        for lease in list(self._wanted.values()):
            self._ask(connection, lease)

    def disconnected(self) -> None:
        """Nothing is held any more; the addresses stay what they are."""
        self._connection = None
        self.granted_at = None
        self._refused_here.clear()
        for lease in self._wanted.values():
            lease.granted = lease.asked = False
            lease.ask_no_more()

    def lost(self, request_nonce: int, error: RefusedError) -> None:
        """The server has ended a lease that was granted: another process has it, or nobody."""
        for lease in list(self._wanted.values()):
            if lease.granted and lease.request_nonce == request_nonce:
                lease.granted = False
                assert self._connection is not None, "it said so on it"
                if is_superseded(error) or (is_final(error) and self._has_others()):
                    self._refuse(lease, error)
                elif not self._has_others():
                    self._connection.end(error)  # nothing is left here: another may do better
                else:
                    self._ask_later(self._connection, lease, error)

    def give_up(self, error: ProxyServiceError) -> None:
        """Nothing will be granted any more."""
        leases, self._wanted = self._wanted, {}
        for lease in leases.values():
            lease.refuse(error)

    def _ask(self, connection: NodeConnection, lease: NodeLease) -> None:
        asked = connection.request(Opcode.PROXY_REQUEST, lease.request(connection.speaks_part_a))
        lease.request_nonce = connection.last_nonce
        lease.asked = True
        asked.addCallbacks(
            self._granted, self._refused, (connection, lease), {}, (connection, lease), {}
        )
        asked.addErrback(lambda failure: log.failure("asking for a lease failed", failure))

    def _granted(
        self, response: ProtoMessage, connection: NodeConnection, lease: NodeLease
    ) -> None:
        if self._wanted.get(lease.origin) is not lease or self._connection is not connection:
            return  # released meanwhile, or on its way elsewhere
        granted = cast("pb.ProxyResponse", response)
        lease.asked = False
        if not is_proxy_address(granted.proxy_address):
            connection.end(FrameError("a proxy address that is no host:port"))
            return
        if self.granted_at is None:
            self.granted_at = self._clock.seconds()
        self.had_any = True
        refused, self._refused_here = self._refused_here, []
        for other, error in refused:
            self._refuse(other, error)
        lease.backoff.over()
        if lease.mode == pb.MODE_MESSAGES:
            self._identity.reached_at(granted.proxy_address)
        changed = lease.grant(granted)
        self._events.addressed(lease, changed=changed)

    def _refused(self, failure: Failure, connection: NodeConnection, lease: NodeLease) -> None:
        failure.trap(ProxyServiceError)
        if self._wanted.get(lease.origin) is not lease or self._connection is not connection:
            return  # released meanwhile, or on its way elsewhere
        if failure.check(RefusedError) is None:
            return  # the connection ended, and with it the question
        if connection.is_over:
            return  # what it ended for is the relay's matter, and no answer about this lease
        error = cast("RefusedError", failure.value)
        lease.asked = False
        if error.code == pb.REFUSAL_ADDRESS_UNAVAILABLE and lease.wanted_port:
            self._events.port_unavailable(lease, error)
            if lease.port_or_any:
                lease.wanted_port = None
                self._ask(connection, lease)
                return
        if not self._has_others():
            connection.end(error)  # another server may do better, or this one later
        elif not is_final(error):
            self._ask_later(connection, lease, error)
        elif any(other.granted for other in self._wanted.values()):
            self._refuse(lease, error)
        else:
            self._refused_here.append((lease, error))  # the others' answers are to come

    def _has_others(self) -> bool:
        """Whether the present connection has a lease, or may get one."""
        return any(lease.granted or lease.asked for lease in self._wanted.values())

    def _refuse(self, lease: NodeLease, error: RefusedError) -> None:
        """For good; the other leases of this node go on."""
        if self._wanted.get(lease.origin) is not lease:
            return  # released meanwhile
        del self._wanted[lease.origin]
        lease.refuse(error)
        self._events.lease_refused(lease, error)

    def _ask_later(self, connection: NodeConnection, lease: NodeLease, error: RefusedError) -> None:
        """On this connection, which has other leases."""
        waits = TREATMENTS[kind_of(error)].waits
        retry_seconds = lease.backoff.failed(waits, hint_seconds(error))
        retry_seconds = max(retry_seconds, SHORTEST_RETRY_SECONDS)
        lease.ask_no_more()
        again = self._clock.callLater(retry_seconds, self._ask_again, connection, lease)
        lease.ask_again = again
        self._events.lease_delayed(lease, error, retry_seconds)  # who hears it may release it

    def _ask_again(self, connection: NodeConnection, lease: NodeLease) -> None:
        present = self._connection is connection and self._wanted.get(lease.origin) is lease
        if present and not lease.granted and not lease.asked:
            self._ask(connection, lease)
