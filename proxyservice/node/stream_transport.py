"""A stream as a Twisted transport: what a protocol sees of its visitor.

The same promises as a TCP connection gives: writes are queued without bound
but for producers, which are paused; reading can be paused, and what comes
meanwhile is bounded by the stream's window; half-close for protocols that know
it. `getPeer` is the visitor, `getHost` the proxy address. What the protocol or
its producer raises is logged and resets this visitor (`net/foreign.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITCPTransport,
    ITLSTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.net import foreign
from proxyservice.net.closed_end import ClosedEnd
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.node.stream_producer import StreamProducer
from proxyservice.node.stream_tls import start_tls
from proxyservice.streams.multiplexer import Stream
from proxyservice.streams.state import State
from proxyservice.wire import proxyservice_pb2 as pb

HIGH_BYTES = 64 * 1024
"""Queued beyond the stream's credit: a push producer is paused, as by Twisted's transports."""

SILENT_SECONDS = 30.0
"""A producer of a visitor that has ended says something within this time, or the visitor is reset:
its protocol knows no half-close, and the visitor may be gone altogether."""

_PROTOCOL = "a visitor's protocol"


@implementer(ITCPTransport, ITLSTransport, IConsumer, IPushProducer)
class StreamTransport:
    """Made by `FactoryAcceptor`; ``begin`` connects the protocol."""

    disconnecting = False
    TLS = False
    """Twisted's word for: `startTLS` was called."""

    def __init__(
        self,
        switch: StreamSwitch,
        stream: Stream,
        protocol: IProtocol,
        visitor: Any,
        proxy_address: Any,
        clock: Any,
    ) -> None:
        self._switch = switch
        self._stream = stream
        self.protocol: Any = protocol
        self._visitor = visitor
        self._proxy_address = proxy_address
        self._clock = clock
        self._unsent = bytearray()
        self._unread = bytearray()  # came while reading was paused
        self._began = False
        self._paused = False
        self._peer_ended = False
        self._write_closing = False  # no more will be written; End follows the queue
        self._write_closed = False
        self._over = False
        self._producer = StreamProducer(clock, self.fail)
        self._spoke = False  # since it was looked after last
        self._patience: Any = None  # with a producer, once the visitor has ended
        stream.local = self

    def begin(self) -> None:
        """Connect the protocol, and then deliver what has come before."""
        foreign.call(_PROTOCOL, self.fail, lambda: self.protocol.makeConnection(self))
        self._began = True
        self._deliver()

    def startTLS(self, contextFactory: Any, normal: bool = True) -> None:
        """From now on everything is encrypted; as server, or as client with ``normal`` false."""
        if self.TLS:
            raise RuntimeError("TLS has begun already")
        if not self._over:
            self.TLS = True
            producer, is_push = self._producer.unregister()
            start_tls(self, contextFactory, is_client=not normal, clock=self._clock)
            if producer is not None:
                self.registerProducer(producer, is_push)

    # ------------------------------------------------------------- addresses

    def getPeer(self) -> Any:
        return self._visitor

    def getHost(self) -> Any:
        return self._proxy_address

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Streams never wait to fill packets."""

    def getTcpKeepAlive(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """The relay watches over the visitor's connection."""

    # --------------------------------------------------------------- writing

    def write(self, data: bytes) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError("data must be bytes")
        if self._over or self._write_closing or self._write_closed:
            return
        self._unsent += data
        self._send()
        if len(self._unsent) > HIGH_BYTES:
            self._producer.pause()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def _send(self) -> None:
        while self._unsent and (room := self._switch.room(self._stream)):
            portion = bytes(self._unsent[:room])
            del self._unsent[:room]
            self._switch.send(self, self._stream, portion)
            self._spoke = True
        if self._unsent:
            if self._stream.send.credit_bytes:
                self._switch.outlet.wait(self)
        elif not self._over:
            self._queue_empty()

    def _queue_empty(self) -> None:
        """An end that was asked for is nothing that a producer may put off: it comes first."""
        if self._write_closing and not self._write_closed:
            self._end_output()
        if not self._producer:
            if self.disconnecting:
                self._finish()
        elif self._producer.is_push or not self._write_closed:
            self._producer.emptied()

    def _end_output(self) -> None:
        self._write_closed = True
        self._switch.end(self._stream)
        self._tell_half_closeable("writeConnectionLost")
        self._both_ended()

    def _tell_half_closeable(self, method: str) -> bool:
        """False where the protocol does not know half-close."""
        protocol = self.protocol

        def told() -> bool:
            half_closeable = IHalfCloseableProtocol(protocol, None)
            if half_closeable is not None:
                foreign.wait_for(_PROTOCOL, self.fail, getattr(half_closeable, method)())
            return half_closeable is not None

        return foreign.call(_PROTOCOL, self.fail, told) is not False

    def send_turn(self) -> None:
        """The main connection has room."""
        if not self._over:
            self._send()

    def stream_ready(self) -> None:
        """Credit came."""
        if not self._over and self._unsent:
            self._send()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer.register(producer, is_push=streaming)
        if self._over:
            self._producer.stop()
        elif not streaming:
            self._producer.resume()
        elif len(self._unsent) > HIGH_BYTES:
            self._producer.pause()

    def unregisterProducer(self) -> None:
        self._producer.unregister()
        if self.disconnecting and not self._unsent and not self._over:
            self._finish()

    # --------------------------------------------------------------- reading

    def stream_received(self, view: memoryview) -> None:
        """Deliver at once, or keep what the window allows until reading goes on."""
        if self._paused or self._unread or not self._began:
            self._unread += view
            return
        data = bytes(view)
        self._switch.consumed(self._stream, len(data))
        try:
            returned = self.protocol.dataReceived(data)
        except BaseException as error:
            foreign.raised(_PROTOCOL, self.fail, error)
        else:
            if returned is not None:
                foreign.wait_for(_PROTOCOL, self.fail, returned)

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._deliver()

    def stopProducing(self) -> None:
        self.loseConnection()

    def _deliver(self) -> None:
        while self._unread and not self._paused and not self._over:
            unread, self._unread = self._unread, bytearray()
            self.stream_received(memoryview(unread))
        if self._peer_ended and not self._unread and not self._paused:
            self._input_ended()

    def stream_ended(self) -> None:
        """The visitor sends no more: told to the protocol after what it sent before."""
        self._peer_ended = True
        if self._began and not self._unread and not self._paused:
            self._input_ended()

    def _input_ended(self) -> None:
        if self._over or self.disconnecting:
            return
        if self._tell_half_closeable("readConnectionLost"):
            self._both_ended()
        else:
            self.loseConnection()  # once what is under way has left
            if self._producer:
                self._be_patient()

    def _be_patient(self) -> None:
        self._spoke = False
        self._patience = self._clock.callLater(SILENT_SECONDS, self._look_after_producer)

    def _look_after_producer(self) -> None:
        if self._spoke or self._unsent:
            self._be_patient()
        elif self._producer:
            self.fail(Failure(ConnectionLost("the visitor has ended, and nothing more was said")))

    def _both_ended(self) -> None:
        if self._stream.state is State.GONE and not self._unread:
            self._lose(Failure(ConnectionDone()))

    # --------------------------------------------------------------- the end

    def loseWriteConnection(self) -> None:
        if self._over or self._write_closing:
            return
        self._write_closing = True
        if not self._unsent:
            self._queue_empty()

    def loseConnection(self) -> None:
        if self._over or self.disconnecting:
            return
        self.disconnecting = True
        if not self._unsent and not self._producer:
            self._clock.callLater(0, self._finish)

    def _finish(self) -> None:
        """Everything has been sent: end the stream, and listen no longer."""
        if not self._over:
            ClosedEnd(self._switch, self._stream, self._clock)
            self._lose(Failure(ConnectionDone()))

    def abortConnection(self) -> None:
        self.fail(Failure(ConnectionAborted()))

    def fail(self, why: Failure) -> None:
        """Reset the visitor now, and tell the protocol later: it may be its own doing."""
        if not self._over:
            self._switch.reset(self._stream, pb.RESET_ABORTED)
            self._let_go()
            self._clock.callLater(0, self._tell_lost, why)

    def stream_reset(self, code: int, reason: str) -> None:
        """The visitor, or the main connection, is gone."""
        self._lose(Failure(ConnectionLost(reason or "the stream was reset")))

    def _lose(self, why: Failure) -> None:
        if not self._over:
            self._let_go()
            self._tell_lost(why)

    def _let_go(self) -> None:
        """Nothing comes in or goes out any more."""
        self._over = True
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._switch.outlet.forget(self)
        if self._unread:
            self._switch.consumed(self._stream, len(self._unread))
        self._unsent, self._unread = bytearray(), bytearray()

    def _tell_lost(self, why: Failure) -> None:
        self._producer.stop()
        protocol, self.protocol = self.protocol, None
        foreign.call(_PROTOCOL, None, lambda: protocol.connectionLost(why))
