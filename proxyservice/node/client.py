"""Outgoing TCP connections with eager transports, as an endpoint."""

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

from proxyservice.net.eager import EagerClient

CONNECT_SECONDS = 10.0


class _Connector(tcp.Connector):
    def _makeTransport(self) -> EagerClient:
        return EagerClient(self.host, self.port, self.bindAddress, self, self.reactor)


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
            if not self.connected.called:  # Twisted's TLS says it twice
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
