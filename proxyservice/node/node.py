"""A node: one main connection, its leases, the messages that come and go.

The parts do the work: `Dialler` stays connected, `NodeLeases` asks,
`PeerLinks` sends; here they are joined, and this is what applications use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from proxyservice.errors import ProxyServiceError, RefusedError
from proxyservice.net import foreign
from proxyservice.net.names import NameLookups
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.net.turns import Turns
from proxyservice.node.connection import NodeConnection
from proxyservice.node.connection_owner import ConnectionSettings
from proxyservice.node.dial import Server, parse_server, peer_endpoint
from proxyservice.node.dialler import Dialler
from proxyservice.node.events import NodeEvents, guarded
from proxyservice.node.handshake import Handshake
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.known_relays import KnownRelays
from proxyservice.node.lease import NodeLease
from proxyservice.node.leases import NodeLeases
from proxyservice.node.messages import Received, encode_application_message
from proxyservice.node.peer_answers import PeerAnswers
from proxyservice.node.peers import PeerLinks
from proxyservice.node.streams import Acceptor, Visit
from proxyservice.node.tls import TLSTrust
from proxyservice.streams.multiplexer import Stream
from proxyservice.wire import proxyservice_pb2 as pb


class Node(Service):
    """Start it as a service, or with `startService`.

    ``servers`` is a failover list of `HOST[:PORT]`, `tls:HOST[:PORT]` or
    `Server`; ``trust`` says which certificates are good. An identity
    with a key proves itself, and its addresses are kept for that key; by
    default the node claims a random one. ``legacy``: speak part A only, which
    every server of the deployed protocol understands; a relay that is known to
    speak part B hears part B all the same. ``answers_peers``: a peer that
    asks hears Pong, KeepaliveResponse or AsyncAckResponse, for which its address
    is dialled. ``impatient``: as long as there was no lease, give up on what only
    the user can mend (`finality.py`); by default that is tried again for ever.
    Raises StartError for servers that cannot be read.
    """

    def __init__(
        self,
        servers: Sequence[str | Server],
        *,
        reactor: Any = None,
        identity: NodeIdentity | None = None,
        known_relays: KnownRelays | None = None,
        settings: ConnectionSettings | None = None,
        events: NodeEvents | None = None,
        legacy: bool = False,
        trust: TLSTrust | None = None,
        answers_peers: bool = True,
        impatient: bool = False,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        self.identity = identity or NodeIdentity()
        self._known_relays = known_relays or KnownRelays()
        self._settings = settings or ConnectionSettings()
        self._events = guarded(events or NodeEvents())
        self._legacy = legacy
        self._leases = NodeLeases(self.identity, self._events, reactor)
        lookups = NameLookups(reactor)
        self._peers = PeerLinks(
            lambda address: peer_endpoint(address, reactor, lookups), self._events, reactor
        )
        self._dialler = Dialler(
            [parse_server(one, reactor, trust) for one in servers],
            self._new_connection,
            self._give_up,
            self._events,
            reactor,
            impatient=lambda: impatient and not self._leases.had_any,
        )
        self._answers = PeerAnswers(self._answer, reactor) if answers_peers else None
        self._turns = Turns(reactor)
        self._listeners: list[Callable[[Received], None]] = []
        self._message_nonces = count(1)
        self.error: ProxyServiceError | None = None
        """Why the node has given up; None while it has not."""

    # ---------------------------------------------------------------- leases

    def lease(
        self,
        origin: str = "",
        *,
        mode: pb.Mode = pb.MODE_MESSAGES,
        port: int | None = None,
        port_or_any: bool = False,
        label: str = "",
        acceptor: Acceptor | None = None,
    ) -> NodeLease:
        """Want a proxy address for an origin address, from now on until it is released.

        ``port`` is asked for until it can be had; with ``port_or_any`` it is
        done without when it is unavailable. At most one message lease per
        node; ``acceptor`` takes the streams of a stream lease.
        Raises ValueError when this origin has one already.
        """
        lease = NodeLease(
            origin, mode, port=port, port_or_any=port_or_any, label=label, acceptor=acceptor
        )
        self._leases.want(lease)
        return lease

    def when_addressed(self) -> Deferred[str]:
        """Fire with `host:port` of the message lease, which is made when there is none."""
        lease = self._leases.first(pb.MODE_MESSAGES) or self.lease()
        return lease.when_addressed()

    def release(self, lease: NodeLease) -> Deferred[None]:
        """Give an address back; fires when the server has confirmed it, or at once offline."""
        return self._leases.release(lease)

    # -------------------------------------------------------------- messages

    def on_message(self, listener: Callable[[Received], None]) -> Callable[[Received], None]:
        """Call ``listener(message)`` for every message of a visitor; usable as a decorator."""
        self._listeners.append(listener)
        return listener

    def send(
        self,
        address: str,
        opcode: int,
        payload: bytes,
        *,
        request_nonce: int = 0,
        reply: bool = False,
        message_id: str = "",
        wants_ack: bool = False,
    ) -> Deferred[None]:
        """Send a message to a peer's proxy address (`host:port`).

        Fires when it has left this process; fails with UnreachableError, which
        concerns this peer alone. Delivery is at most once; order is kept per
        peer. Raises ValueError for an address that is none.
        """
        frame = self._message(
            opcode,
            payload,
            request_nonce=request_nonce,
            reply=reply,
            message_id=message_id,
            wants_ack=wants_ack,
        )
        return self._peers.send(address, frame)

    def _answer(
        self, address: str, opcode: int, payload: bytes, request_nonce: int
    ) -> Deferred[None]:
        """What `PeerAnswers` says; `address` can be dialled."""
        frame = self._message(
            opcode, payload, request_nonce=request_nonce, reply=request_nonce != 0
        )
        return self._peers.answer(address, frame)

    def _message(self, opcode: int, payload: bytes, **fields: Any) -> bytes:
        return encode_application_message(
            self._settings.network_id,
            opcode,
            payload,
            sender=self.identity.sender,
            message_nonce=next(self._message_nonces),
            **fields,
        )

    # --------------------------------------------------------------- service

    def startService(self) -> None:
        """Connect; without any lease wanted a message lease is."""
        super().startService()
        if not self._leases:
            self.lease()
        self._dialler.start()

    def stopService(self) -> Deferred[None]:
        """Close all connections; fires when that is done. Addresses stay remembered."""
        super().stopService()
        self._peers.close()
        return self._dialler.stop()

    def _new_connection(self, server: Server) -> NodeConnection:
        handshake = None
        if not self._legacy or server.name in self._known_relays:
            handshake = Handshake(
                self._settings.network_id,
                self.identity,
                server.name,
                self._known_relays,
            )
        return NodeConnection(
            server.name,
            self._settings,
            self.identity,
            self,
            handshake,
            self._reactor,
            self._turns,
        )

    def _give_up(self, error: ProxyServiceError) -> None:
        self.error = error
        self._leases.give_up(error)
        self._events.gave_up(error)

    # ------------------------------------------- what a main connection reports

    def connection_ready(self, connection: NodeConnection) -> None:
        """Ask for everything that is wanted."""
        self._events.connected(connection.server, connection.local_address)
        self._leases.connected(connection)

    def welcomed(self, connection: NodeConnection, welcome: pb.Welcome) -> None:
        """The server names what holds here."""
        if self._leases.first(pb.MODE_STREAMS) and not welcome.features >> pb.FEATURE_STREAMS & 1:
            connection.end(RefusedError(pb.REFUSAL_UNSUPPORTED, "the relay carries no streams"))

    def visited(self, opening: pb.StreamOpen, switch: StreamSwitch, stream: Stream) -> None:
        """Hand the stream to whoever serves its lease; what that raises ends the stream alone."""
        lease = self._leases.get(opening.origin_address)
        if lease is None or lease.acceptor is None:
            return
        visit = Visit.of(opening)
        accept = lease.acceptor.accept
        foreign.call("an acceptor", lambda _: switch.give_up(stream), accept, visit, switch, stream)

    def lease_lost(
        self, connection: NodeConnection, request_nonce: int, error: RefusedError
    ) -> None:
        """Another process has this lease, or the operator took it."""
        if not self._dialler.is_leaving(connection):
            self._leases.lost(request_nonce, error)

    def message_received(self, message: Received) -> None:
        """Answer what it asks for; tell the listeners: what they raise goes no further."""
        lease = self._leases.first(pb.MODE_MESSAGES)
        if self._answers is not None and self.running and lease is not None and lease.granted:
            self._answers.heard(message, lease.address)
        for listener in list(self._listeners):
            foreign.call("a message listener", None, listener, message)

    def draining(self, connection: NodeConnection, hint: pb.Draining) -> None:
        """The server is about to stop: the leases go elsewhere, open streams stay to their end."""
        if self.running and not self._dialler.is_leaving(connection):
            self._dialler.sent_away(hint, self._held_seconds())

    def connection_ended(self, connection: NodeConnection, error: ProxyServiceError) -> None:
        """The leases are held no more; the dialler decides what comes next."""
        held_seconds = None
        if not self._dialler.is_leaving(connection):
            held_seconds = self._held_seconds()
        self._dialler.ended(connection, error, held_seconds)

    def _held_seconds(self) -> float | None:
        """The present connection holds no lease any more; how long it had one, None: never."""
        granted_at = self._leases.granted_at
        self._leases.disconnected()
        return None if granted_at is None else self._reactor.seconds() - granted_at
