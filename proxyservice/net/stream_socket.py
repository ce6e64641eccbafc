"""One TCP connection whose bytes are a stream's, both ways: a visitor's, or an origin's.

What is read goes into the stream as far as its credit and the main connection
allow; beyond that it is not read. What comes from the stream is written, and
credit returns as the kernel takes it. So each direction holds at most one
window, and nobody waits for this socket but its own stream.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.net.eager import EagerProtocol
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.streams.multiplexer import Stream
from proxyservice.streams.state import State
from proxyservice.wire import proxyservice_pb2 as pb


@implementer(IHalfCloseableProtocol)
class StreamSocket(EagerProtocol):
    """Joins a socket and a stream; ``gone`` is called once when the socket is closed."""

    def __init__(
        self, switch: StreamSwitch, stream: Stream, gone: Callable[[StreamSocket], None]
    ) -> None:
        self._switch = switch
        self._stream = stream
        stream.local = self
        self._gone = gone
        self._held_bytes = 0  # of the stream, in the transport's queue
        self._paused = False
        self._read_closed = False
        self._leftover = b""  # of a transport that cannot be asked to read less

    def write(self, data: bytes | memoryview) -> None:
        """Hand bytes to the transport; a view is valid during the call only."""
        self.transport.write(data)

    def queued_bytes(self) -> int:
        """What the kernel has not taken yet."""
        return int(self.transport.queued_bytes)

    # ------------------------------------------------- from socket to stream

    def receiveRoom(self) -> int:
        """As much as credit and the main connection allow; else wait for them."""
        room = self._switch.room(self._stream)
        if not room:
            self._wait()
        return room

    def bufferReceived(self, view: memoryview) -> None:
        """Send what was read, header in front of it where it lies."""
        self._switch.send_lent(self, self._stream, len(view))
        if not self._switch.room(self._stream):
            self._wait()

    def dataReceived(self, data: bytes) -> None:
        """The same from a transport that reads as much as it likes: the rest waits here."""
        self._leftover += data
        self._send_leftover()

    def _send_leftover(self) -> None:
        while self._leftover and (room := self._switch.room(self._stream)):
            self._switch.send(self, self._stream, self._leftover[:room])
            self._leftover = self._leftover[room:]
        if self._leftover:
            self._wait()
        elif self._read_closed:
            self._switch.end(self._stream)
            self._close_if_done()

    def _wait(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        if self._stream.send.credit_bytes:
            self._switch.outlet.wait(self)

    def send_turn(self) -> None:
        """The main connection has room, and it is this stream's turn."""
        if self._leftover:
            self._send_leftover()
        elif not self._read_closed:
            read_now = getattr(self.transport, "readNow", None)
            if read_now is not None:
                read_now()
        self._go_on()

    def stream_ready(self) -> None:
        """Credit came."""
        if not self._paused:
            return
        if self._switch.outlet.writable:
            if self._leftover:
                self._send_leftover()
            self._go_on()
        else:
            self._switch.outlet.wait(self)

    def _go_on(self) -> None:
        """Read on, or wait for room to read: never neither. What is left over waits already."""
        if self._leftover or self._read_closed or self._stream.state is State.GONE:
            return
        if self._switch.room(self._stream):
            self._resume()
        else:
            self._wait()

    def _resume(self) -> None:
        self._paused = False
        self.transport.resumeProducing()

    def readConnectionLost(self) -> None:
        """The socket's input has ended, in order."""
        self._read_closed = True
        if not self._leftover:
            self._switch.end(self._stream)
            self._close_if_done()

    # ------------------------------------------------- from stream to socket

    def stream_received(self, view: memoryview) -> None:
        """Write; what the kernel took has been consumed."""
        self._held_bytes += len(view)
        self.write(view)
        self.sendProgressed()

    def sendProgressed(self) -> None:
        """The kernel took bytes: their credit goes back."""
        left = self._held_bytes - self.queued_bytes()
        if left > 0:
            self._held_bytes -= left
            self._switch.consumed(self._stream, left)

    def stream_ended(self) -> None:
        """The peer sends no more: neither does the socket, once everything has left."""
        if not self._close_if_done():
            self.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """Everything has left, and the socket was told."""

    def _close_if_done(self) -> bool:
        if self._stream.state is not State.GONE:
            return False
        self.transport.loseConnection()
        return True

    def stream_reset(self, code: int, reason: str) -> None:
        """A transfer that was cut must not look complete: RST."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The socket is closed, for whatever reason."""
        self._switch.outlet.forget(self)
        self._give_up()
        if self._held_bytes:
            self._switch.consumed(self._stream, self._held_bytes)
        self._gone(self)

    def _give_up(self) -> None:
        """The peer sees that the stream is cut."""
        self._switch.reset(self._stream, pb.RESET_ABORTED)
