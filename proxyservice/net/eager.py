"""Eager transports: write at once, read big, copy only what could not be sent.

Twisted's transport queues each write, asks epoll for writability and sends one
reactor turn later. When nothing is queued, trying `socket.send` first saves
two `epoll_ctl` calls and that turn; and reading into one preallocated buffer,
handed on as a view, saves an allocation for each read. Measured on loopback it
is the difference between 8 and 12 Gbit/s through two relays. Everything else
is the ordinary transport: producers, half-close, abort and TLS are Twisted's.
"""

from __future__ import annotations

from errno import EAGAIN, EINTR, ENOBUFS, EWOULDBLOCK
from socket import socket
from typing import Any

from twisted.internet import error, main, tcp
from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from proxyservice.net.lean_loop import turn_end
from proxyservice.net.linger import end_in_order
from proxyservice.net.send import send
from proxyservice.net.vanished import nobody_watches, watch

RECEIVE_BYTES = 112 * 1024
"""Most bytes of one read. What is read must still be in the processor's second cache when it is
sent: with 96 to 112 KiB eight streams are a quarter faster than with 256, with 64 slower again."""

HEADROOM_BYTES = 64
"""Free bytes in front of what was read, for whoever writes a header there (StreamData)."""

RECEIVE_BUFFER = memoryview(bytearray(HEADROOM_BYTES + RECEIVE_BYTES))
"""The one buffer that all eager transports of this thread read into."""

_LANDING = RECEIVE_BUFFER[HEADROOM_BYTES:]
_NOT_NOW = (EAGAIN, EWOULDBLOCK, EINTR, ENOBUFS)  # the second is another number on Windows
_DONE = Failure(main.CONNECTION_DONE)
_ABORTED = Failure(error.ConnectionAborted())


class EagerProtocol(Protocol):
    """A protocol that is lent the bytes instead of being given a copy.

    Over a transport that cannot lend (TLS, tests) it gets the same bytes by
    `dataReceived`, and `receiveRoom` is not asked.
    """

    transport: Any

    def receiveRoom(self) -> int | memoryview:
        """How many bytes may be read now, or the protocol's own memory to read into.

        0: none, and the protocol sees to reading later.
        """
        return RECEIVE_BYTES

    def bufferReceived(self, view: memoryview) -> None:
        """Bytes came; the view ends its life with this call.

        It is the filled part of the protocol's own memory, or it starts at
        `HEADROOM_BYTES` of `RECEIVE_BUFFER`, and then the bytes before it are
        the protocol's to overwrite.
        """
        raise NotImplementedError

    def sendProgressed(self) -> None:
        """The kernel took bytes of the transport's queue."""

    def dataReceived(self, data: bytes) -> None:
        self.bufferReceived(memoryview(data))


class EagerConnection(tcp.Connection):
    """What accepted and dialled connections have in common; mixed into Twisted's classes."""

    sent_bytes = 0
    """Bytes that the kernel took, in all."""

    high_bytes = 64 * 1024
    """A registered push producer is paused when more than this is queued."""

    _unsent: bytes | bytearray = b""  # what the kernel did not take yet
    _shouldShutdown = False  # closing the only descriptor says the same, in one call

    @property
    def queued_bytes(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return len(self._unsent)

    def write(self, data: bytes | memoryview) -> None:
        """Send what the kernel takes now and queue a copy of the rest.

        An error is never reported from here: what failed is queued, and the
        reactor meets the same error in its next turn.
        """
        if self.TLS:
            super().write(bytes(data))
            return
        if not self.connected or self._writeDisconnected or not data:
            return
        if self._unsent:
            self._unsent += data
        else:
            sent = max(0, self._send(data))
            if sent == len(data):
                if self.producer is not None and not self.streamingProducer:
                    self.startWriting()  # a pull producer is asked when the kernel has room
                return
            self._unsent = bytearray(memoryview(data)[sent:])
            self.startWriting()
        self._maybePauseProducer()

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        """Return how many bytes the kernel took; -1 when the connection is broken."""
        try:
            sent = send(self.socket, data)
        except OSError as error:
            return 0 if error.errno in _NOT_NOW else -1
        self.sent_bytes += sent
        return sent

    def _isSendBufferFull(self) -> bool:
        return len(self._unsent) > self.high_bytes

    def doWrite(self) -> Any:
        """The kernel has room: send of the queue, then let the producer or the end have its turn.

        The same decisions as in `abstract.FileDescriptor.doWrite`, on one
        buffer that loses its head instead of being joined anew.
        """
        if self._unsent:
            sent = self._send(self._unsent)
            if sent < 0:
                return main.CONNECTION_LOST
            if sent == len(self._unsent):
                self._unsent = b""
            else:
                del self._unsent[:sent]  # type: ignore[union-attr]  # empty, or a bytearray
            if isinstance(self.protocol, EagerProtocol):
                self.protocol.sendProgressed()
        return None if self._unsent else self._drained()

    def loseConnection(self) -> None:
        """Close when the queue has left: at the end of this turn when there is none."""
        if self._unsent or self.producer is not None or self.TLS or not turn_end.active:
            super().loseConnection()
        elif self.connected and not self.disconnecting:
            self.disconnecting = True
            self.stopReading()
            turn_end.defer(self._close_in_order)

    def _close_in_order(self) -> None:
        if self._unsent:
            self.startWriting()  # something was written after all, as is allowed
        elif self.connected:
            self.connectionLost(_DONE)

    def abortConnection(self) -> None:
        """Close at the end of this turn, with RST."""
        if not turn_end.active:
            super().abortConnection()
        elif not self.disconnected and not self._aborting:
            self._aborting = True
            self.stopReading()
            self.stopWriting()
            vars(self).update(doRead=_nothing, doWrite=_nothing)
            turn_end.defer(self._close_at_once)

    def _close_at_once(self) -> None:
        self.connectionLost(_ABORTED)

    def loseWriteConnection(self) -> None:
        """End this direction: now when nothing is queued, else behind the queue."""
        if self.TLS or self._unsent or not self.connected:
            super().loseWriteConnection()
        elif not self._writeDisconnected:
            self._writeDisconnected = True
            self._closeWriteConnection()

    def _drained(self) -> Any:
        """Twisted resumes a paused producer *instead of* an end that was asked for; here as well.

        The end of this direction is nothing that a producer may put off: it comes first.
        """
        self.stopWriting()
        if self._writeDisconnecting and not self._writeDisconnected and not self.disconnecting:
            self._writeDisconnected = True
            self._closeWriteConnection()
        if self.producer is not None and (self.producerPaused or not self.streamingProducer):
            self.producerPaused = False
            self.producer.resumeProducing()  # type: ignore[attr-defined]  # either kind has it
        elif self.disconnecting:
            return self._postLoseConnection()
        return None

    def doRead(self) -> Any:
        """Read into the shared buffer and lend it to the protocol."""
        protocol = self.protocol
        if self.TLS or not isinstance(protocol, EagerProtocol):
            return super().doRead()
        room = protocol.receiveRoom()
        if not room:
            return None
        try:
            landing = _LANDING[:room] if isinstance(room, int) else room
            received = self.socket.recv_into(landing)
        except OSError as error:
            return None if error.errno in _NOT_NOW else main.CONNECTION_LOST
        if not received:
            return main.CONNECTION_DONE
        protocol.bufferReceived(landing[:received])
        return None

    def readNow(self) -> None:
        """Read without waiting for epoll, never from within `bufferReceived`.

        The end of input, or an error, is left for the reactor to meet again.
        """
        if self.connected and not self.disconnecting:
            self.doRead()


def _nothing() -> None:
    """An aborted connection neither reads nor writes."""


class EagerServer(EagerConnection, tcp.Server):
    """An accepted connection; set as `transport` of a listening port to use it."""


class EagerSocket(EagerServer):
    """A connected socket of ours, without a port of Twisted's behind it.

    Visitors come and go by the thousand a second and stay by the ten thousand:
    this leaves out what only logs and `repr` would use. ``peer`` is the address
    as `socket.accept` gives it; the socket does not block. It says RST at its
    close (`linger.py`) until this connection ends it in order.
    """

    server: Any = None
    sessionno = 0
    _in_order = False
    logstr = repstr = "EagerSocket"

    def __init__(self, connected: socket, protocol: Protocol, peer: Any, reactor: Any) -> None:
        self.reactor = reactor
        self.socket = connected
        self.fileno = connected.fileno
        self.protocol = protocol
        self.client = peer
        if len(peer) != 2:
            self._addressType = IPv6Address
        self.connected = 1
        self._closed = nobody_watches
        reactor.addReader(self)

    def _closeWriteConnection(self) -> None:
        self._end_in_order()
        super()._closeWriteConnection()

    def connectionLost(self, reason: Failure) -> None:
        """Closed. In order only as an end that either side has asked for; by an error with RST."""
        self._closed()
        if reason.type is error.ConnectionDone:
            self._end_in_order()
        super().connectionLost(reason)

    def _end_in_order(self) -> None:
        if not self._in_order and self.connected:
            self._in_order = True
            end_in_order(self.socket)

    def end_when_vanished(self, seconds: float) -> None:
        """From now on: once the peer's TCP owes an answer for so long, the socket is closed."""
        self._closed = watch(self, seconds, self.abortConnection)


class EagerUnixSocket(EagerSocket):
    """The same of a unix socket, dialled at the path ``peer``; there is no RST there."""

    _in_order = True

    def getHost(self) -> UNIXAddress:
        return UNIXAddress(self.socket.getsockname() or None)

    def getPeer(self) -> UNIXAddress:
        return UNIXAddress(self.client)  # type: ignore[arg-type]  # a path, where TCP has tuples


class EagerClient(EagerConnection, tcp.Client):
    """A connection dialled with Twisted's own machinery; see `node/dial.py`."""
