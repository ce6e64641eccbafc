"""Main connections that a front end passes on: their PROXY header, and then they are as any other.

What the header says is believed: whoever reaches such a port says where it
comes from. So it has to be one that only the front end reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyservice.errors import FrameError
from proxyservice.net.addresses import canonical
from proxyservice.net.eager import EagerProtocol, EagerServer
from proxyservice.wire.proxy_header import HEADER_LIMIT_BYTES, End, ProxyHeader

if TYPE_CHECKING:
    from proxyservice.server.factory import MainFactory

log = Logger()


class FrontedServer(EagerServer):
    """An accepted connection whose ends are those that the front end told."""

    told_source: End | None = None
    told_destination: End | None = None

    def getPeer(self) -> Any:
        """The node."""
        return _address(self.told_source) or super().getPeer()

    def getHost(self) -> Any:
        """What the node has dialled."""
        return _address(self.told_destination) or super().getHost()


def warn_if_open(host: str) -> None:
    """Said at the start, of the address that such a port listens on."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - looked for, not bound
        log.warn(
            "whoever reaches a haproxy: endpoint says where it comes from; let only the front end "
            "reach it, as in --listen haproxy:tcp:6008:interface=127.0.0.1"
        )


def _address(end: End | None) -> IPv4Address | IPv6Address | None:
    if end is None:
        return None
    kind = IPv6Address if ":" in end[0] else IPv4Address
    return kind("TCP", *end)


class _FrontedConnection(EagerProtocol):
    """Reads the header; the rest is the inner protocol's, as if it had just been accepted."""

    def __init__(self, factory: FrontEndFactory, inner: EagerProtocol) -> None:
        self._factory = factory
        self._inner = inner
        self._header = b""

    def connectionMade(self) -> None:
        """The front end is there."""
        self._factory.arrived(self)

    def receiveRoom(self) -> int:
        """A header, and the first words behind it."""
        return HEADER_LIMIT_BYTES

    def bufferReceived(self, view: memoryview) -> None:
        """Some of the header, or all of it and more."""
        self._header += view
        try:
            told = ProxyHeader.read(self._header)
        except FrameError as error:
            self._end(str(error))
            return
        if told is not None:
            self._factory.gone(self)
            if told.source is None or self._factory.admits(told.source[0]):
                self._hand_over(told)
            else:
                self.transport.abortConnection()

    def _hand_over(self, told: ProxyHeader) -> None:
        transport, inner = self.transport, self._inner
        transport.told_source, transport.told_destination = told.source, told.destination
        transport.protocol = inner
        inner.makeConnection(transport)
        rest = self._header[told.n_bytes :]
        if rest:
            inner.bufferReceived(memoryview(rest))

    def deadline_passed(self, now: float) -> None:
        """The tick: it has said too little for too long."""
        self._end("no PROXY header in time")

    def _end(self, reason: str) -> None:
        self._factory.refusals.front_end(reason)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """It ended before its header did."""
        self._factory.gone(self)


class FrontEndFactory(Factory):
    """In front of the factory of main connections, with TLS or without.

    Those without a header yet are bounded as strangers are, in number and time.
    """

    noisy = False

    def __init__(self, inner: Any, main: MainFactory) -> None:
        self._inner = inner
        self._main = main
        self.refusals = main.refusals
        self._limits = main.settings.limits
        self._waiting: set[_FrontedConnection] = set()

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """None where nobody is taken."""
        if len(self._waiting) >= self._limits.connections_without_identity:
            return None
        inner = self._inner.buildProtocol(None)  # the front end's address is nobody's source
        return None if inner is None else _FrontedConnection(self, inner)

    def admits(self, host: str) -> bool:
        """Whether one more connection of this node's address is taken now."""
        return self._main.admits(canonical(host))

    def stopFactory(self) -> None:
        """The service stops: nobody comes in any more."""
        for connection in list(self._waiting):
            connection.transport.abortConnection()

    def arrived(self, connection: _FrontedConnection) -> None:
        """One more without a header."""
        self._waiting.add(connection)
        until = self._main.now() + self._limits.seconds_to_identity
        self._main.deadlines.set(connection, until)

    def gone(self, connection: _FrontedConnection) -> None:
        """It has one, or is closed."""
        self._waiting.discard(connection)
        self._main.deadlines.forget(connection)
