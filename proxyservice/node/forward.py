"""Visitors of a lease, forwarded to a server nearby: each gets a connection of its own.

While the target is being dialled, what the visitor sends waits here, a window
of it at most. A target that is down gives the visitor an orderly end, and the
user a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.net.closed_end import ClosedEnd
from proxyservice.net.connect import Dial, DialFailure, dial_failure
from proxyservice.net.keepalive import configure_visitor
from proxyservice.net.linger import end_in_order
from proxyservice.net.stream_socket import StreamSocket
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.net.tcp_answers import tcp_answers
from proxyservice.net.tls_transport import tls_failure
from proxyservice.net.two_way_tls import ends_one_by_one, handshake_waits
from proxyservice.net.underneath import tcp_socket
from proxyservice.node.events import NodeEvents
from proxyservice.node.streams import Visit
from proxyservice.node.targets import Target
from proxyservice.streams.multiplexer import Stream
from proxyservice.streams.state import State
from proxyservice.wire import proxyservice_pb2 as pb

FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.001, 0.1
"""Until the next look at whether a target's TCP has heard everything; on loopback it had."""

HANDSHAKE_SECONDS = 30.0
"""A busy TLS server that answers at all has done so by then, what TCP sends again included.
Without an end a visitor of one that hangs would wait for as long as he likes, and nobody know."""

Preamble = Callable[[Visit], bytes]
"""What a target hears of a visitor before its first byte (a PROXY protocol header)."""


class Forwarder:
    """The acceptor of a lease whose visitors go to ``target``; counts for people."""

    def __init__(
        self, reactor: Any, target: Target, *, preamble: Preamble | None, events: NodeEvents
    ) -> None:
        self._reactor = reactor
        self._target = target
        self._preamble = preamble
        self._events = events
        self.open_streams = 0
        self.visitors_total = 0
        self.bytes_in = 0
        """From visitors to the target."""
        self.bytes_out = 0
        """From the target to visitors."""

    def accept(self, visit: Visit, switch: StreamSwitch, stream: Stream) -> None:
        """Dial the target for this visitor."""
        self.open_streams += 1
        self.visitors_total += 1
        preamble = b"" if self._preamble is None else self._preamble(visit)
        dialling = _Dialling(self, switch, stream, preamble)
        if places := self._target.places:
            dialling.dial_next(self._reactor, places)
        else:
            dialling.connect(self._target.client_endpoint(self._reactor))

    def not_reached(self, switch: StreamSwitch, stream: Stream, why: DialFailure) -> None:
        """The visitor of a target that is down gets an orderly end, the user a word.

        For want of our own room he is reset: an end would look like an empty answer.
        """
        self.ended()
        if why.is_ours:
            switch.reset(stream, pb.RESET_NO_ROOM, "the node has no room")
            reason = f"this node has no room ({why.reason}), and resets its visitors"
        else:
            ClosedEnd(switch, stream, self._reactor)
            reason = why.reason
        self._events.target_down(self._target.name, reason)

    def linger(self, switch: StreamSwitch, stream: Stream) -> None:
        """What the visitor still says is for nobody; a reset now would cost it what it was sent."""
        ClosedEnd(switch, stream, self._reactor)

    def not_spoken_with(self, why: str) -> None:
        """The target is there, and TLS with it fails; the user gets a word."""
        self._events.target_down(self._target.name, f"TLS failed: {why}")

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        """A delayed call of the reactor that this runs in."""
        return self._reactor.callLater(seconds, call)

    def ended(self) -> None:
        """A visitor's stream is over."""
        self.open_streams -= 1


class _Dialling:
    """The local end of a stream until its target is connected."""

    def __init__(
        self, forwarder: Forwarder, switch: StreamSwitch, stream: Stream, preamble: bytes
    ) -> None:
        self._forwarder = forwarder
        self._switch = switch
        self._stream = stream
        self._preamble = preamble
        self._early = bytearray()
        self._ended = False
        self._over = False
        self._cancel: Callable[[], None] = _nothing
        stream.local = self

    def dial_next(self, reactor: Any, places: list[tuple[str, int] | str]) -> None:
        """Dial the first of the places, and the next when it refuses."""
        place, *others = places

        def failed(why: DialFailure) -> None:
            if others and not why.is_ours:
                self.dial_next(reactor, others)
            else:
                self._failed(why)

        dial = Dial(reactor, place, lambda: self._connected(TargetSocket), failed)
        self._cancel = dial.cancel
        dial.start()

    def connect(self, endpoint: Any) -> None:
        """Dial a target that only Twisted's endpoints can."""
        factory = _TargetFactory(lambda: self._connected(OrdinaryTargetSocket))
        attempt = endpoint.connect(factory)
        self._cancel = attempt.cancel
        attempt.addErrback(self._endpoint_failed)

    def _endpoint_failed(self, failure: Failure) -> None:
        if self._over:
            return
        code = getattr(failure.value, "osError", None)
        if isinstance(code, int) and (why := dial_failure(code)).is_ours:
            self._failed(why)
        else:
            self._failed(DialFailure(failure.getErrorMessage() or type(failure.value).__name__))

    def _connected(self, kind: type[TargetSocket]) -> TargetSocket:
        self._over = True
        early = bytes(self._early)
        return kind(self._switch, self._stream, self._forwarder, self._preamble, early, self._ended)

    def _failed(self, why: DialFailure) -> None:
        self._over = True
        if self._early:
            self._switch.consumed(self._stream, len(self._early))
        self._forwarder.not_reached(self._switch, self._stream, why)

    def stream_received(self, view: memoryview) -> None:
        """Keep it for the target."""
        self._early += view

    def stream_ended(self) -> None:
        """The visitor has said everything."""
        self._ended = True

    def stream_reset(self, code: int, reason: str) -> None:
        """The visitor has gone before the target answered."""
        if not self._over:
            self._over = True
            self._switch.consumed(self._stream, len(self._early))
            self._forwarder.ended()
            self._cancel()

    def stream_ready(self) -> None:
        """There is nothing to send yet."""

    def send_turn(self) -> None:
        """There is nothing to send yet."""


class _TargetFactory(Factory):
    noisy = False

    def __init__(self, build: Callable[[], TargetSocket]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> TargetSocket:
        return self._build()


def _nothing() -> None:
    """Nothing to cancel yet."""


def _tls_trouble(reason: Failure) -> str:
    """What TLS has against a target; empty where it is something else."""
    if getattr(reason.type, "__name__", "") == "VerificationError":  # service_identity's
        return "its certificate is for another name"
    return tls_failure(reason)


class TargetSocket(StreamSocket):
    """The connection to the target, which counts what passes."""

    def __init__(
        self,
        switch: StreamSwitch,
        stream: Stream,
        forwarder: Forwarder,
        preamble: bytes,
        early: bytes,
        ended: bool,
    ) -> None:
        super().__init__(switch, stream, lambda _: forwarder.ended())
        self._forwarder = forwarder
        self._preamble = preamble
        self._early = early
        self._ended = ended
        self._end_comes: Any = None
        self._look_seconds = FIRST_LOOK_SECONDS

    def connectionMade(self) -> None:
        """Say what waited, in order; the preamble is none of the stream's bytes."""
        super().connectionMade()
        if self._preamble:
            self.write(self._preamble)
        if self._early:
            self.stream_received(memoryview(self._early))
            self._early = b""
        if self._ended:
            self.stream_ended()

    def bufferReceived(self, view: memoryview) -> None:
        self._forwarder.bytes_out += len(view)
        super().bufferReceived(view)

    def stream_received(self, view: memoryview) -> None:
        self._forwarder.bytes_in += len(view)
        super().stream_received(view)

    def stream_ended(self) -> None:
        """The visitor sends no more. The target hears that once its TCP has heard the rest.

        A target whose queue of connections is full answers with SYN cookies, and then
        takes the first segment that comes through for the beginning. Were that the end,
        it would hear an empty request in order, and what was sent before it would be lost
        (seen on Linux 6.18 with a queue of 5 and 60 visitors, without any relay too).
        """
        answers = None if self._stream.state is State.GONE else tcp_answers(self.transport)
        if answers is None or not answers.unacknowledged:
            super().stream_ended()
            return
        self._end_comes = self.transport.reactor.callLater(self._look_seconds, self.stream_ended)
        self._look_seconds = min(2 * self._look_seconds, LONGEST_LOOK_SECONDS)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The target is gone."""
        if self._end_comes is not None and self._end_comes.active():
            self._end_comes.cancel()
        super().connectionLost(reason)

    def _give_up(self) -> None:
        """A target that had said everything is gone: its visitor can still read all of it."""
        if self._stream.state is State.END_SENT:
            self._forwarder.linger(self._switch, self._stream)
        else:
            super()._give_up()


@implementer(IPushProducer)
class OrdinaryTargetSocket(TargetSocket):
    """The same over a transport of Twisted's own, which tells full and empty and nothing between.

    What was written counts as consumed unless the transport says that it is
    full; then everything waits until it says that it is empty. So does an end:
    asked for while the transport is full, Twisted's would resume its producer
    instead, and forget the end.
    """

    _full = False
    _end_waits = False  # for the transport to be empty
    _write_ended = False
    _handshake_late: Any = None  # a delayed call

    def connectionMade(self) -> None:
        """Hear of full and empty."""
        ends_one_by_one(self.transport)
        self._handle = tcp_socket(self.transport)
        if self._handle is not None:
            configure_visitor(self._handle)
        if handshake_waits(self.transport):
            later = self._forwarder.call_later
            self._handshake_late = later(HANDSHAKE_SECONDS, self._without_handshake)
        self.transport.registerProducer(self, True)
        super().connectionMade()

    def _without_handshake(self) -> None:
        if handshake_waits(self.transport):
            self._forwarder.not_spoken_with(f"no answer to it within {HANDSHAKE_SECONDS:g} s")
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._forwarder.bytes_out += len(data)
        super().dataReceived(data)

    def write(self, data: bytes | memoryview) -> None:
        """Twisted's transports keep what they are given: they get a copy."""
        self.transport.write(bytes(data))

    def queued_bytes(self) -> int:
        """All or nothing."""
        return self._held_bytes if self._full else 0

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._full = True

    def resumeProducing(self) -> None:
        """The transport is empty."""
        self._full = False
        self.sendProgressed()
        if self._end_waits:
            self.stream_ended()

    def stopProducing(self) -> None:
        """`connectionLost` follows."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """Where TLS ended it the user hears why; its visitor is reset like any other."""
        if self._handshake_late is not None and self._handshake_late.active():
            self._handshake_late.cancel()
        if why := _tls_trouble(reason):
            self._forwarder.not_spoken_with(why)
        super().connectionLost(reason)

    def stream_ended(self) -> None:
        """The visitor sends no more. The transport is told once it has taken everything."""
        self._end_waits = self._full
        if not self._full:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        """Everything has left, and the target was told."""
        self._write_ended = True
        if self._handle is not None:
            end_in_order(self._handle)
        self._close_if_done()

    def _close_if_done(self) -> bool:
        """Not before everything has left: both may have ended while some of it waits here."""
        return self._write_ended and super()._close_if_done()
