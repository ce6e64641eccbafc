"""TLS whose two directions end one by one, as those of TCP do.

Twisted's TLS ends both directions at once: its `loseWriteConnection` is that of
the transport underneath, a FIN that a TLS peer has to take for a cut, and a
peer's close_notify closes what still was to be said. Here the end of a
direction is a close_notify behind the last byte (RFC 8446, 6.1; OpenSSL has it
for TLS 1.2 too), the other direction goes on, and an end without one is lost
(`ConnectionLost`). An abort says no close_notify: what was cut must not look
complete.
"""

from __future__ import annotations

from typing import Any

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_LOST
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

_RECORD_BYTES = 2**15
"""Most bytes that are asked of OpenSSL at a time, as by Twisted."""


@implementer(IHalfCloseableProtocol)
class TwoWayTLS(BufferingTLSTransport):
    """What is a half-closeable protocol within is told of each end; any other as by Twisted."""

    transport: Any
    wrappedProtocol: Any
    _tlsConnection: Any  # OpenSSL's; None once it is lost

    _write_ending = False  # nothing more is written; close_notify follows what was
    _write_ended = False
    _read_ended = False

    def loseWriteConnection(self) -> None:
        """Everything that was written leaves, then close_notify; reading goes on."""
        if self.connected and not self.disconnecting and not self._write_ending:
            self._aggregator.flush()
            self._write_ending = True
            self._end_if_written()

    def _end_if_written(self) -> None:
        """Not before the handshake is done, nor before what waited for it was written."""
        if self._write_ended or not self._write_ending or self._lostTLSConnection:
            return
        if not self._handshakeDone or self._appSendBuffer:
            return
        self._write_ended = True
        self._shutdownTLS()  # closes the transport if the peer has ended before
        half_closeable = IHalfCloseableProtocol(self.wrappedProtocol, None)
        if half_closeable is not None:
            half_closeable.writeConnectionLost()

    def _write(self, octets: bytes) -> None:
        if not self._write_ended:
            super()._write(octets)

    def _flushReceiveBIO(self) -> None:
        """Deliver what has been decrypted, and each end in its place."""
        self._end_if_written()
        while not self._lostTLSConnection and not self._read_ended:
            try:
                octets = self._tlsConnection.recv(_RECORD_BYTES)
            except WantReadError:
                break
            except ZeroReturnError:
                self._input_ended()
            except Error:
                self._tlsShutdownFinished(Failure())
            else:
                if not self._aborted:
                    ProtocolWrapper.dataReceived(self, octets)
        if self._tlsConnection is not None:
            self._flushSendBIO()

    def _input_ended(self) -> None:
        """The peer's close_notify: it sends no more. Nothing is read any more either."""
        half_closeable = IHalfCloseableProtocol(self.wrappedProtocol, None)
        if half_closeable is None or self.disconnecting:
            self._shutdownTLS()
            self._tlsShutdownFinished(None)
            return
        self._read_ended = True
        self.transport.pauseProducing()  # the FIN below is not news, and ends the other way never
        if self._write_ended:
            self._shutdownTLS()  # both have said so: closes the transport
        half_closeable.readConnectionLost()

    def unregisterProducer(self) -> None:
        """What it wrote last is gathered, and would be thrown away by an end that waits for it."""
        self._aggregator.flush()
        super().unregisterProducer()

    def readConnectionLost(self) -> None:
        """The transport's input has ended; without a close_notify before it was cut."""
        if not self._lostTLSConnection and not self._read_ended:
            self._tlsConnection.bio_shutdown()
            self._flushReceiveBIO()
        if not self._read_ended:
            self._reason = self._reason or Failure(CONNECTION_LOST)
            self.transport.abortConnection()

    def writeConnectionLost(self) -> None:
        """Only this asks the transport for an end, and then for both."""

    def abortConnection(self) -> None:
        """At once, and without a close_notify."""
        self._aborted = True
        self.disconnecting = True
        self.transport.abortConnection()


def ends_one_by_one(transport: Any) -> None:
    """Let a TLS of Twisted's that has not begun to speak be a `TwoWayTLS` from now on.

    Endpoints and wrappers of Twisted's make it within, and take no other class.
    """
    if type(transport) is BufferingTLSTransport:
        transport.__class__ = TwoWayTLS


def handshake_waits(transport: Any) -> bool:
    """Whether this is a `TwoWayTLS` whose peer has not finished the handshake.

    To be asked: a protocol that says it wants to hear of it (`IHandshakeListener`)
    is no longer told of half-closes by `HostnameEndpoint`.
    """
    return isinstance(transport, TwoWayTLS) and not transport._handshakeDone


class TwoWayTLSFactory(TLSMemoryBIOFactory):
    """Makes them."""

    protocol = TwoWayTLS
