"""Applications of a node: some do as they should, others raise wherever they are called."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from proxyservice.node.events import NodeEvents

PLACES = ("build", "made", "data", "later", "exit", "read end", "lost", "nowhere")


class Raised(BaseException):  # no Error: nobody's `except Exception` may be all
    """What applications raise here."""


class Echo(Protocol):
    """Says everything again, and now and then reads nothing for a while."""

    transport: Any

    def __init__(self, reactor: Any, pick: Random) -> None:
        self._reactor, self._pick = reactor, pick
        self._lost = False

    def dataReceived(self, data: bytes) -> Any:
        self.transport.write(data)
        if self._pick.random() < 0.2:
            self.transport.pauseProducing()
            self._reactor.callLater(self._pick.random() * 3, self._go_on)

    def _go_on(self) -> None:
        if not self._lost:
            self.transport.resumeProducing()

    def connectionLost(self, reason: Any = None) -> None:
        assert not self._lost, "told twice"
        self._lost = True


@implementer(IHalfCloseableProtocol)
class HalfEcho(Echo):
    """Knows that the visitor may end first."""

    def readConnectionLost(self) -> None:
        self.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None: ...


class Raising(HalfEcho):
    """Raises in one of its callbacks."""

    def __init__(self, reactor: Any, pick: Random, where: str) -> None:
        super().__init__(reactor, pick)
        self._where = where
        self._left = pick.randrange(3)

    def _raise_at(self, where: str) -> None:
        if where == self._where:
            raise Raised(where)

    def connectionMade(self) -> None:
        self._raise_at("made")

    def dataReceived(self, data: bytes) -> Any:
        self._left -= 1
        if self._left < 0:
            self._raise_at("data")
            if self._where == "exit":
                raise SystemExit("an application's own")
            if self._where == "later":
                late: Deferred[None] = Deferred()
                late.addCallback(lambda _: self._raise_at("later"))
                self._reactor.callLater(self._pick.random(), late.callback, None)
                super().dataReceived(data)
                return late
        return super().dataReceived(data)

    def readConnectionLost(self) -> None:
        self._raise_at("read end")
        super().readConnectionLost()

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self._raise_at("lost")


class Calm:
    """A factory whose protocols raise nothing."""

    def __init__(self, reactor: Any, pick: Random) -> None:
        self._reactor, self._pick = reactor, pick

    def buildProtocol(self, address: Any) -> Protocol:
        return self._pick.choice((Echo, HalfEcho))(self._reactor, self._pick)


class Wild(Calm):
    """A factory that raises, or whose protocols do."""

    def buildProtocol(self, address: Any) -> Protocol:
        where = self._pick.choice(PLACES)
        if where == "build":
            raise Raised(where)
        return Raising(self._reactor, self._pick, where)


class RaisingAcceptor:
    """Takes a stream, or does not, and raises."""

    def __init__(self, acceptor: Any, pick: Random) -> None:
        self._acceptor, self._pick = acceptor, pick

    def accept(self, *visit: Any) -> None:
        if self._pick.random() < 0.5:
            self._acceptor.accept(*visit)
        if self._pick.random() < 0.7:
            raise Raised("accept")


class RaisingEvents(NodeEvents):
    """Tells a world what it is told, and raises after that now and then."""

    def __init__(self, world: Any, pick: Random) -> None:
        self._world, self._pick = world, pick

    def _told(self, what: str, *words: Any) -> None:
        self._world.told(what, *words)
        if self._pick.random() < 0.1:
            raise Raised(what)

    def connecting(self, server: str) -> None:
        self._told("dials", server)

    def connected(self, server: str, local_address: str) -> None:
        self._told("is connected", server)

    def addressed(self, lease: Any, *, changed: bool) -> None:
        self._told("has", lease.origin, lease.address)

    def port_unavailable(self, lease: Any, error: Any) -> None:
        self._told("cannot have its port", lease.origin)

    def lease_delayed(self, lease: Any, error: Any, retry_seconds: float) -> None:
        self._told("asks later", lease.origin, error, retry_seconds)

    def lease_refused(self, lease: Any, error: Any) -> None:
        self._told("is refused", lease.origin, error)

    def disconnected(self, server: str, error: Any, retry_seconds: float) -> None:
        self._told("waits", server, error, retry_seconds)

    def gave_up(self, error: Any) -> None:
        self._told("gives up", error)
