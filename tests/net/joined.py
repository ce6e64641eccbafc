"""Transports in memory that lend their buffer as eager ones do; both ends of a relay on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from proxyservice.net.eager import HEADROOM_BYTES, RECEIVE_BUFFER, RECEIVE_BYTES, EagerProtocol
from proxyservice.net.stream_socket import StreamSocket
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.node.dial import Server
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.node import Node
from proxyservice.node.streams import FactoryAcceptor, Visit
from proxyservice.streams.multiplexer import Stream
from proxyservice.wire import proxyservice_pb2 as pb
from tests.node.joined import End, Joined
from tests.server.memory import MemoryRelay, RawVisitor


class LendingEnd(End):
    """Reads into the shared buffer when its protocol says how much; tells of each send."""

    high_bytes = 64 * 1024
    lends = True

    def write(self, data: bytes | memoryview) -> None:
        if not self.connected or self.write_closing or self.disconnecting:
            return
        self.queue += data
        self._take()
        if self.producer is not None and len(self.queue) > self.high_bytes and not self.paused:
            self.paused = True
            self.producer.pauseProducing()

    def step(self, limit_bytes: int) -> bool:
        moved = False
        if self.in_flight and self.other.connected and self.other.reading:
            moved = self.other.take_in(limit_bytes)
        if not self.connected:
            return moved
        had = len(self.queue)
        self._take()
        if len(self.queue) != had:
            moved = True
            if isinstance(self.protocol, EagerProtocol):
                self.protocol.sendProgressed()
        if self.connected and self.producer is not None and not self.queue and self.paused:
            self.paused = False
            self.producer.resumeProducing()
            moved = True
        return moved or (self.connected and self._finish())

    def take_in(self, limit_bytes: int) -> bool:
        """Hand some of what is in flight to the protocol, as much as it has room for."""
        source = self.other.in_flight
        if not self.lends or not isinstance(self.protocol, EagerProtocol):
            chunk = bytes(source[:limit_bytes])
            del source[:limit_bytes]
            self.protocol.dataReceived(chunk)
            return True
        room = self.protocol.receiveRoom()
        if isinstance(room, int):
            room = RECEIVE_BUFFER[HEADROOM_BYTES : HEADROOM_BYTES + min(room, RECEIVE_BYTES)]
        size = min(len(room), limit_bytes, len(source))
        if not size:
            return False
        room[:size] = source[:size]
        del source[:size]
        self.protocol.bufferReceived(room[:size])
        return True

    def readNow(self) -> None:
        if self.connected and not self.disconnecting and self.other.in_flight:
            self.take_in(RECEIVE_BYTES)


class LendingPair(Joined):
    """Both ends lend."""

    end = LendingEnd


class HandingEnd(LendingEnd):
    """Reads as much as it likes and hands out bytes, as TLS does."""

    lends = False

    def readNow(self) -> None:
        """It has handed out what it had."""


class HandingPair(Joined):
    """Neither end lends."""

    end = HandingEnd


@implementer(IHalfCloseableProtocol)
class Echo(Protocol):
    """Sends back what it gets, and then its end."""

    transport: Any

    def __init__(self) -> None:
        self.lost: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None: ...

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason.value


@implementer(IHalfCloseableProtocol)
class Visitor(RawVisitor):
    """Notes in order what happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False

    def readConnectionLost(self) -> None:
        self.ended = True

    def writeConnectionLost(self) -> None: ...


class SocketAcceptor:
    """Joins each visitor's stream to a target in memory, as `Forwarder` does with sockets."""

    def __init__(self, make: Callable[[], Any], scene: Scene) -> None:
        self._make = make
        self._scene = scene

    def accept(self, visit: Visit, switch: StreamSwitch, stream: Stream) -> None:
        target = self._make()
        self._scene.targets.append(target)
        socket = StreamSocket(switch, stream, lambda _: None)
        self._scene.relay._joined(socket, target)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, relay: MemoryRelay) -> None:
        self._relay = relay
        self.pairs: list[Joined] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        protocol = factory.buildProtocol(None)
        self.pairs.append(self._relay.connect(protocol))
        return succeed(protocol)


class Scene:
    """A relay and a node with one stream lease, both real but for their sockets.

    ``over_sockets``: the node joins streams to targets' sockets; else the
    stream itself is the transport of what ``make`` makes, unless an ``acceptor`` is given.
    """

    def __init__(
        self,
        make: Callable[[], Any] = Echo,
        *,
        over_sockets: bool = False,
        pair: type[Joined] = LendingPair,
        acceptor: Any = None,
        **memory: Any,
    ) -> None:
        self.relay = MemoryRelay(join=pair, **memory)
        self.targets: list[Any] = []
        endpoint = _Endpoint(self.relay)
        self.node = Node(
            [Server("relay:6008", lambda: endpoint)],
            reactor=self.relay.clock,
            identity=NodeIdentity(key=Ed25519PrivateKey.from_private_bytes(b"s" * 32)),
        )
        if over_sockets:
            acceptor = SocketAcceptor(make, self)
        elif acceptor is None:
            acceptor = FactoryAcceptor(_Making(make, self.targets), self.relay.clock)
        lease = self.node.lease("web", mode=pb.MODE_STREAMS, acceptor=acceptor)
        self.node.startService()
        self.relay.pump()
        assert lease.address is not None
        self.port = int(lease.address.rpartition(":")[2])
        (self.main,) = endpoint.pairs

    def visit(self) -> Visitor:
        visitor = self.relay.visit(self.port, Visitor(), host="127.0.0.1")
        assert isinstance(visitor, Visitor)
        return visitor

    def pump(self) -> None:
        """Bytes, and calls that were put off to the next turn."""
        for _ in range(3):
            self.relay.pump()
            self.relay.clock.advance(0)

    def streams(self) -> tuple[int, int]:
        """Open streams as the server and as the node count them."""
        return len(self.main.server.protocol.switch.multiplexer), len(
            self.main.client.protocol.switch.multiplexer
        )


class _Making(Factory):
    noisy = False

    def __init__(self, make: Callable[[], Any], made: list[Any]) -> None:
        self._make = make
        self._made = made

    def buildProtocol(self, addr: Any) -> Any:
        self._made.append(self._make())
        return self._made[-1]
