"""Two protocols joined in memory by transports that have real backpressure.

A write goes into the "kernel" of the receiving side while that has room, and
waits in the sender's own queue when it has not; producers are paused and
resumed as Twisted does. Nothing moves but by `Joined.pump`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

HIGH_WATER_BYTES = 64 * 1024


class _Socket:
    def setsockopt(self, *args: Any) -> None:
        """Options are the kernel's matter."""

    def getsockopt(self, *args: Any) -> bytes:
        """And there is no kernel that could tell."""
        return b""


@implementer(ITransport)
class End:
    """One side of a joined pair."""

    sent_bytes = 0

    def __init__(self, kernel_bytes: int, host: Any, peer: Any) -> None:
        self.kernel_bytes = kernel_bytes
        self.in_flight = bytearray()
        self.queue = bytearray()
        self.protocol: Any = None
        self.other: End
        self.producer: Any = None
        self.paused = False
        self.reading = True
        self.connected = True
        self.disconnecting = False
        self.write_closing = False
        self.write_closed = False
        self.lost_reason: Failure | None = None
        self._host, self._peer = host, peer

    # what Twisted's transports offer ---------------------------------------

    @property
    def queued_bytes(self) -> int:
        return len(self.queue)

    def write(self, data: bytes | memoryview) -> None:
        if not self.connected or self.write_closing or self.disconnecting:
            return
        self.queue += data
        self._take()
        if self.producer is not None and len(self.queue) > HIGH_WATER_BYTES and not self.paused:
            self.paused = True
            self.producer.pauseProducing()

    def writeSequence(self, chunks: list[bytes]) -> None:
        self.write(b"".join(chunks))

    def _take(self) -> None:
        room = self.kernel_bytes - len(self.in_flight)
        if room > 0 and self.queue:
            taken = self.queue[:room]
            del self.queue[: len(taken)]
            self.in_flight += taken
            self.sent_bytes += len(taken)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        self.producer = producer
        if not self.connected:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if self.connected:
            self.reading = True

    def loseConnection(self) -> None:
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        self.write_closing = True

    def abortConnection(self) -> None:
        if self.connected:
            self._lose(Failure(ConnectionAborted()))
            self.other._lose(Failure(ConnectionLost()))

    def _lose(self, reason: Failure) -> None:
        if self.connected:
            self.connected = False
            self.lost_reason = reason
            self.queue.clear()
            self.in_flight.clear()
            if self.producer is not None:
                self.producer.stopProducing()
            self.protocol.connectionLost(reason)

    def getHost(self) -> Any:
        return self._host

    def getPeer(self) -> Any:
        return self._peer

    def getHandle(self) -> _Socket:
        return _Socket()

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    # what the test's network does ------------------------------------------

    def step(self, limit_bytes: int) -> bool:
        """Deliver some bytes, then refill; tell whether anything moved."""
        moved = False
        if self.in_flight and self.other.connected and self.other.reading:
            chunk = bytes(self.in_flight[:limit_bytes])
            del self.in_flight[: len(chunk)]
            self.other.protocol.dataReceived(chunk)
            moved = True
        if not self.connected:
            return moved
        had = len(self.queue)
        self._take()
        moved |= len(self.queue) != had
        if self.producer is not None and not self.queue and (self.paused or had):
            self.paused = False
            self.producer.resumeProducing()
        return moved or self._finish()

    def _finish(self) -> bool:
        if self.queue or self.in_flight or not self.connected:
            return False
        if self.disconnecting and self.producer is None:
            self._lose(Failure(ConnectionDone()))
            self.other._lose(Failure(ConnectionDone()))
            return True
        if self.write_closing and not self.write_closed:
            self.write_closed = True
            self._half_close()
            return True
        return False

    def _half_close(self) -> None:
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.writeConnectionLost()
        if not self.other.connected:
            return
        if IHalfCloseableProtocol.providedBy(self.other.protocol):
            self.other.protocol.readConnectionLost()
        else:
            self.other._lose(Failure(ConnectionDone()))
            self._lose(Failure(ConnectionDone()))


class Joined:
    """A client and a server protocol, connected."""

    end = End
    """What kind of transport both get."""

    def __init__(
        self, client: Any, server: Any, kernel_bytes: int = 1 << 20, source: str = "127.0.0.1"
    ) -> None:
        here = IPv4Address("TCP", source, 40000)
        there = IPv4Address("TCP", "127.0.0.1", 6008)
        self.client = self.end(kernel_bytes, here, there)
        self.server = self.end(kernel_bytes, there, here)
        self.client.other, self.server.other = self.server, self.client
        self.client.protocol, self.server.protocol = client, server
        self.black_hole = False
        server.makeConnection(self.server)
        client.makeConnection(self.client)

    def pump(self, chunk_bytes: int = 1 << 16, steps: int = 1_000_000) -> None:
        """Move bytes until nothing moves any more."""
        if self.black_hole:
            return
        for _ in range(steps):
            if not self.step(chunk_bytes):
                return
        raise AssertionError("the bytes never come to rest")

    def step(self, chunk_bytes: int) -> bool:
        """Move some bytes each way; tell whether there were any."""
        if self.black_hole:
            return False
        moved = self.client.step(chunk_bytes)
        return self.server.step(chunk_bytes) or moved
