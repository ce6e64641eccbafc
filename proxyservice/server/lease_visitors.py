"""The visitors of one main connection's leases: who comes in, how fast, and what is known of them.

Whether a visitor may come is `visitor_gate.py`'s to say and the rules of the
node at that moment; what becomes of its bytes is the visitor's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol

from proxyservice.leases.lease import Grant, Lease, Owner
from proxyservice.net.addresses import format_host_port
from proxyservice.server.lease_request import LeaseRequest
from proxyservice.server.pace import Pace, PacedStreamVisitor
from proxyservice.server.relay_visitor import Begun, RelayVisitor
from proxyservice.server.stream_visitor import StreamVisitor
from proxyservice.wire import proxyservice_pb2 as pb

if TYPE_CHECKING:
    from proxyservice.server.factory import MainFactory
    from proxyservice.server.main import MainConnection

Visitor = RelayVisitor | StreamVisitor


class Holding:
    """One lease of this connection, or the question for it."""

    __slots__ = ("grant", "mode", "nonce", "owner", "pace", "unwanted", "visitors", "waiting")

    def __init__(self, owner: Owner, mode: int) -> None:
        self.owner = owner
        self.mode = mode
        self.nonce: int | None = None  # of the request that was answered last
        self.unwanted = False  # released before it was granted
        self.grant: Grant | None = None
        self.waiting: list[LeaseRequest] = []  # requests to answer once it is granted
        self.visitors: set[Visitor] = set()
        self.pace: Pace | None = None

    def close_visitors(self) -> None:
        """The lease or its mode is over."""
        for visitor in list(self.visitors):
            visitor.lease_gone()
        self.visitors.clear()

    def finish_messages(self) -> None:
        """The service is about to stop: of messages the one that is under way is waited for."""
        for visitor in list(self.visitors):
            if isinstance(visitor, RelayVisitor):
                visitor.finish()


class LeaseVisitors:
    """One per main connection; ``gone`` is called after each visitor that went."""

    def __init__(
        self, connection: MainConnection, factory: MainFactory, gone: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._factory = factory
        self._gone = gone

    def arrived(
        self,
        holding: Holding,
        lease: Lease,
        host: str,
        port: int,
        begun: Begun | None = None,
        *,
        waited: bool = False,
    ) -> Protocol | None:
        """Somebody connected to the lease of this holding; None turns it away.

        `begun`: it was there before, and this of its messages is in hand.
        """
        if holding.grant is None:
            return self._factory.waiting_visitor(lease, host, port, holding.mode)
        if holding.grant.generation != lease.generation:
            return None
        rules = self._connection.rules
        refusal = self._factory.gate.refusal(
            lease.owner, len(holding.visitors), host, rules, waited=waited
        )
        if refusal is not None:
            self._factory.visitor_refused(lease, refusal)
            return None
        holding.pace = self._factory.pace(holding.pace, rules)
        visitor = self._made(holding, lease, host, port, begun)
        if visitor is not None:
            self._factory.gate.came(visitor, host)
            holding.visitors.add(visitor)
            self._factory.visitors += 1
        return visitor

    def _made(
        self, holding: Holding, lease: Lease, host: str, port: int, begun: Begun | None
    ) -> Visitor | None:
        gone = partial(self._went, holding)
        if holding.mode == pb.MODE_STREAMS:
            return self._stream_visitor(holding, lease, host, port, gone)
        outlet = self._connection.outlet
        return self._factory.relay_visitor(outlet, lease, gone, holding.pace, host, port, begun)

    def _stream_visitor(
        self,
        holding: Holding,
        lease: Lease,
        host: str,
        port: int,
        gone: Callable[[Any], None],
    ) -> StreamVisitor | None:
        switch = self._connection.switch
        assert switch is not None, "a stream lease without streams"
        stream = switch.multiplexer.open()
        if stream is None:
            self._factory.visitor_refused(lease, "the node's connection has no room for a stream")
            return None
        pace = holding.pace
        kind = StreamVisitor if pace is None else partial(PacedStreamVisitor, pace)
        return kind(
            switch,
            stream,
            gone,
            memory=self._factory.memory,
            memory_source=self._factory.sources.counted_as(host),
            visitor_address=format_host_port(host, port),
            proxy_address=self._connection.proxy_address(lease),
            origin=lease.owner.origin,
        )

    def _went(self, holding: Holding, visitor: Visitor) -> None:
        holding.visitors.discard(visitor)
        self._factory.visitors -= 1
        self._factory.gate.gone(visitor)
        self._gone()

    def keep_waiting(self, holding: Holding, port: int) -> None:
        """The node has gone, and is expected back: its visitors of messages wait for it.

        What is in hand of a frame stays with its visitor. Who finds no room is closed.
        """
        room, memory = self._factory.waiting_room, self._factory.memory
        for visitor in list(holding.visitors):
            if not isinstance(visitor, RelayVisitor) or not visitor.may_wait:
                continue
            transport, host, came_from = visitor.transport, visitor.host, visitor.port
            if not room.has_room(port):
                continue
            begun, gate = visitor.leave(), self._factory.gate
            source = self._factory.sources.counted_as(host)
            waiting = room.keep(
                port, host, came_from, holding.mode, begun, memory, source, gate.gone
            )
            gate.came(waiting, host)
            transport.protocol = waiting
            waiting.makeConnection(transport)
        holding.close_visitors()

    def admit_who_waited(self, holding: Holding, lease: Lease) -> None:
        """While the lease was held, or this grant on its way to the disk.

        Who waits for a node in the other mode is turned away.
        """
        for waiting in self._factory.waiting_room.take(lease.port):
            visitor = None
            if waiting.mode in (None, holding.mode):
                host, port = waiting.host, waiting.port
                visitor = self.arrived(holding, lease, host, port, waiting.begun, waited=True)
            if visitor is None:
                waiting.turn_away()
            else:
                waiting.hand_to(visitor)

    def rules_changed(self, holding: Holding) -> None:
        """A rate and networks that hold from now on, for who is there too."""
        factory, rules = self._factory, self._connection.rules
        holding.pace = factory.pace(holding.pace, rules)
        for visitor in factory.gate.unwelcome(holding.visitors, rules):
            visitor.transport.abortConnection()
