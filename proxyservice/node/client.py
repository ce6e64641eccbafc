"""Outgoing TCP connections that say how much waits in them, as an `Outlet` needs."""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from zope.interface import implementer

CONNECT_SECONDS = 10.0


class CountingClient(tcp.Client):
    """Twisted's client transport, counting."""

    sent_bytes = 0

    @property
    def queued_bytes(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def writeSomeData(self, data: bytes) -> Any:
        """Count what leaves."""
        sent = super().writeSomeData(data)
        if isinstance(sent, int) and sent > 0:
            self.sent_bytes += sent
        return sent


class _Connector(tcp.Connector):
    def _makeTransport(self) -> CountingClient:
        return CountingClient(self.host, self.port, self.bindAddress, self, self.reactor)


class _Attempt(ClientFactory):
    """One connection attempt as a Deferred."""

    noisy = False

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self.connected: Deferred[Any] = Deferred(self._cancel)
        self.connector: Any = None

    def _cancel(self, connected: Deferred[Any]) -> None:
        connected.errback(Failure(CancelledError()))
        self.connector.stopConnecting()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        protocol: Any = self._factory.buildProtocol(addr)
        made = protocol.connectionMade

        def connection_made() -> None:
            made()
            self.connected.callback(protocol)

        protocol.connectionMade = connection_made
        return protocol

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self.connected.called:
            self.connected.errback(reason)


@implementer(IStreamClientEndpoint)
class EagerTCPEndpoint:
    """host:port; names are resolved at each attempt."""

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        self._reactor, self._host, self._port = reactor, host, port

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Fire with the protocol once it is connected."""
        attempt = _Attempt(factory)
        attempt.connector = _Connector(
            self._host, self._port, attempt, CONNECT_SECONDS, None, self._reactor
        )
        attempt.connector.connect()
        return attempt.connected
