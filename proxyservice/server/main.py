"""Main connections: what a node says to the service, and what it hears.

A `MainConnection` turns bytes into frames, frames into methods by a table, and
decides when the connection ends. Rules of frames are in `wire`, rules of
leases in `leases`, what is held in `node_leases.py`; here they meet one node's
transport.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from google.protobuf.message import Message as ProtoMessage
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyservice.errors import FrameError, PeerError, RefusedError
from proxyservice.leases.lease import Identity
from proxyservice.net.addresses import canonical, format_host_port
from proxyservice.net.eager import EagerProtocol
from proxyservice.net.keepalive import configure_main_connection
from proxyservice.net.outlet import Outlet
from proxyservice.server.node_leases import NodeLeases
from proxyservice.server.patience import Late, Patience
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, decode_main, encode_message, parse_payload
from proxyservice.wire.framing import CONTROL_FRAME_BYTES, Frame, FrameDecoder

if TYPE_CHECKING:
    from proxyservice.server.factory import MainFactory

log = Logger()

SERVER_NET_KEY = b"PORTER_TCP_NETKEY"
"""Nodes depend on this literal: no chain key, and the same after a restart."""


class MainConnection(EagerProtocol):
    """The connection which a node opened to the service."""

    factory: MainFactory

    def connectionMade(self) -> None:
        """A socket was accepted; nothing is known of its owner yet."""
        factory = self.factory
        configure_main_connection(self.transport)
        peer, host = self.transport.getPeer(), self.transport.getHost()
        self.source = canonical(peer.host)
        self.local_host = canonical(host.host)
        self.identity: Identity | None = None
        self.leases = NodeLeases(self, factory)
        address = factory.node_address or "tcp://" + format_host_port(self.local_host, host.port)
        self._sender = pb.ID(net_key=SERVER_NET_KEY, address=address)
        self._decoder = FrameDecoder(factory.network_id, CONTROL_FRAME_BYTES)
        self.outlet = Outlet(self.transport, on_drain=self._drained, on_full=self._filled)
        self.closing = False
        self._bytes_before_identity = 0
        self._messages_sent = 0
        self._answer_bytes = 0
        self.patience = Patience(factory.limits, factory.now())
        self._be_punctual()
        factory.arrived(self)

    # ------------------------------------------------------------- bytes in

    def bufferReceived(self, view: memoryview) -> None:
        """Bytes of the node; the view is valid during the call only."""
        if self.closing:
            return
        if self.patience.heard(self.factory.now()):
            self._be_punctual()
        if self.identity is None:
            limit = self.factory.limits.bytes_before_identity - self._bytes_before_identity
            stranger, view = view[:limit], view[limit:]
            self._bytes_before_identity += len(stranger)
            self._decode(stranger)
            if self.identity is None and view:
                self.refuse_peer(FrameError("too many bytes and no ProxyRequest"))
        if view and not self.closing:
            self._decode(view)

    def _decode(self, view: memoryview) -> None:
        try:
            for frame in self._decoder.feed(view):
                assert isinstance(frame, Frame), "no streams were allowed"
                message = decode_main(frame, self.factory.network_id)
                method = _METHODS.get(message.opcode)
                if method is not None:
                    method(self, message)
                if self.closing:
                    return
        except PeerError as error:
            self.refuse_peer(error)

    # ------------------------------------------------------- what nodes say

    def _keepalive(self, message: pb.Message) -> None:
        self._check_identity(message.sender)
        if self.leases.granted or self.leases.pending:
            self._answer_in_order(lambda: self.answer(Opcode.KEEPALIVE_RESPONSE))

    def _metric(self, message: pb.Message) -> None:
        request = parse_payload(message)
        assert isinstance(request, pb.MetricRequest)
        answer = pb.MetricResponse(send_timestamp=request.send_timestamp, raw_data=request.raw_data)
        nonce = message.request_nonce
        self._answer_in_order(lambda: self.answer(Opcode.METRIC_RESPONSE, answer, nonce))

    def _answer_in_order(self, answer: Callable[[], None]) -> None:
        """Answer now, or after the lease that is being stored."""
        if self.leases.pending:
            self.leases.after_grant(answer)
        else:
            answer()

    def _proxy_request(self, message: pb.Message) -> None:
        request = parse_payload(message)
        assert isinstance(request, pb.ProxyRequest)
        sender = message.sender
        if self.identity is None:
            self.identity = Identity(False, sender.net_key, sender.connection_id)
            self.factory.identified(self)
            self.patience.identified(inf)
            self._be_punctual()
        self._check_identity(sender)
        self.leases.request(self.identity, request.origin_address)

    def _check_identity(self, sender: pb.ID) -> None:
        identity = self.identity
        if identity is None:
            return
        if sender.net_key != identity.net_key:
            raise FrameError("a second net_key on one connection")
        if sender.connection_id != identity.connection_id:
            raise FrameError("a second connection_id on one connection")

    # ------------------------------------------------------------- bytes out

    def answer(
        self, opcode: int, payload: ProtoMessage | bytes = b"", request_nonce: int | None = None
    ) -> None:
        """Send an answer; stop listening to a node that does not read its answers."""
        if self.closing:
            return
        self._messages_sent += 1
        frame = encode_message(
            self.factory.network_id,
            opcode,
            payload,
            sender=self._sender,
            message_nonce=self._messages_sent,
            request_nonce=request_nonce or 0,
            reply=request_nonce is not None,
        )
        self.outlet.write(frame)
        if not self.outlet.queued_bytes:
            self._answer_bytes = 0
            return
        self._answer_bytes += len(frame)
        if self._answer_bytes > self.factory.limits.answers_high_bytes:
            self.transport.pauseProducing()

    def refuse(self, error: RefusedError) -> None:
        """No lease: a part-A node would understand no answer, so it is closed a second later."""
        self.factory.refused(self, error)
        self.patience.close_later(
            self.factory.now(), self.factory.limits.close_after_refusal_seconds
        )
        self._be_punctual()

    def refuse_peer(self, error: PeerError) -> None:
        """The node broke the protocol; this ends its connection and nobody else's."""
        self.factory.refused(self, error)
        self.close()

    def broken(self, failure: Failure) -> None:
        """Our own mistake: logged whole, and this connection ends."""
        log.failure("a main connection failed", failure)
        self.abort("failed")

    # ------------------------------------------------------ pace and the end

    def _filled(self) -> None:
        """Bytes wait for the node: from now on it must take some, or it is dead."""
        if self.patience.queued(self.factory.now(), self.outlet.sent_bytes):
            self._be_punctual()

    def _drained(self) -> None:
        """The node has taken what waited for it."""
        self.patience.drained()
        if self._answer_bytes:
            self._answer_bytes = 0
            self.transport.resumeProducing()

    def _be_punctual(self) -> None:
        at = self.patience.next_deadline()
        if at is None:
            self.factory.deadlines.forget(self)
        else:
            self.factory.deadlines.set(self, at)

    def deadline_passed(self, now: float) -> float | None:
        """The service's tick: this connection may be late with something."""
        late = self.patience.verdict(now, self.outlet.sent_bytes)
        if late is Late.CLOSE:
            self.close()
        elif late is Late.IDENTITY:
            self.refuse_peer(FrameError(late.value))
        elif late is not None:
            self.abort(late.value)
        return self.patience.next_deadline()

    def close(self) -> None:
        """End this connection once what was said has left; visitors are cut now."""
        if self.closing:
            return
        self._let_go()
        self.transport.unregisterProducer()
        self.patience.closing(self.factory.now())
        self._be_punctual()
        self.transport.loseConnection()

    def abort(self, why: str) -> None:
        """End this connection at once."""
        log.debug("aborting main connection of {source}: {why}", source=self.source, why=why)
        self._let_go()
        self.transport.abortConnection()

    def _let_go(self) -> None:
        """Give up what this connection holds; whatever comes late finds nothing."""
        self.closing = True
        self.leases.let_go()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The transport is gone, for whatever reason."""
        self._let_go()
        self.outlet.close()
        self.factory.deadlines.forget(self)
        self.factory.gone(self)


_METHODS: dict[int, Callable[[MainConnection, pb.Message], None]] = {
    Opcode.KEEPALIVE: MainConnection._keepalive,
    Opcode.PROXY_REQUEST: MainConnection._proxy_request,
    Opcode.METRIC_REQUEST: MainConnection._metric,
}
