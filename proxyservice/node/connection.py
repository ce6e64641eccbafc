"""A node's main connection: what the service says to it, and what it says.

Bytes become frames, frames become methods by a table. What visitors sent is
delivered or dropped; it never ends the connection. The server's own mistakes
do, and so does a mistake of ours in reading it: whatever is raised in here, the
connection ends and its owner hears of it, or the node would be silent for ever.
When to dial again, and what the answers mean, is `node.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, cast

from google.protobuf.message import Message as ProtoMessage
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyservice.errors import (
    FrameError,
    PeerError,
    ProxyServiceError,
    RefusedError,
    UnreachableError,
    UntrustedError,
)
from proxyservice.net import foreign
from proxyservice.net.eager import EagerProtocol
from proxyservice.net.intake import Intake
from proxyservice.net.keepalive import configure_main_connection
from proxyservice.net.outlet import Outlet
from proxyservice.net.stream_switch import LARGEST_PAYLOAD_BYTES, STREAM_OPCODES, StreamSwitch
from proxyservice.net.tls_transport import channel_of, heard_below
from proxyservice.net.turns import Turns
from proxyservice.node.connection_owner import ConnectionOwner, ConnectionSettings
from proxyservice.node.dial import host_port_of
from proxyservice.node.handshake import Handshake
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.messages import received
from proxyservice.node.mistakes import (
    LONGEST_ANSWER_BYTES,
    closed_silently,
    no_tls_there,
    speaks_tls,
    what_answers,
)
from proxyservice.node.requests import PendingRequests
from proxyservice.node.tls import explain
from proxyservice.streams.multiplexer import Multiplexer, Stream
from proxyservice.streams.windows import DEFAULT_WINDOW_BYTES
from proxyservice.text import printable
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.bounds import check_bounds
from proxyservice.wire.envelope import Opcode, encode_message, parse_payload
from proxyservice.wire.framing import (
    COMPRESSED,
    HEADER_BYTES,
    Frame,
    FrameDecoder,
    StreamPiece,
)
from proxyservice.wire.parsing import parse
from proxyservice.wire.relay_rules import SERVER_NET_KEY

PART_B_OPCODES = range(32, 64)
NEVER_RELAYED = frozenset({Opcode.NONE, Opcode.PROXY_RESPONSE, Opcode.PROXY_REQUEST})

BESIDE_LIMIT_BYTES = 1024 * 1024
"""What a relayed message may hold beside its payload: to read the most laborious takes 10 ms."""

CHALLENGE_SECONDS = 5.0
"""A server that has not said Challenge by then does not speak part B."""

SILENT_INTERVALS = 3
"""Keepalives without any answer until the server counts as gone."""

KEEPALIVE_RANGE_SECONDS = (1.0, 3600.0)
"""What a server may ask for: no flood, and no silence that nobody would notice."""

CLOSE_SECONDS = 1.0
"""What is still unsent so long after a close is given up: whoever ends a process waits for it."""

log = Logger()


class NodeConnection(EagerProtocol):
    """One main connection. ``handshake`` is None towards a server of part A."""

    def __init__(
        self,
        server: str,
        settings: ConnectionSettings,
        identity: NodeIdentity,
        owner: ConnectionOwner,
        handshake: Handshake | None,
        clock: Any,
        turns: Turns | None = None,
    ) -> None:
        self.server = server
        """Name of the server, as the user wrote it."""
        self._settings = settings
        self._identity = identity
        self._owner = owner
        self._handshake = handshake
        self._clock = clock
        self._decoder = FrameDecoder(settings.network_id, settings.max_frame_bytes)
        self._intake = Intake(
            self,
            self._decoder,
            Turns(clock) if turns is None else turns,
            settings.max_frame_bytes,
            BESIDE_LIMIT_BYTES,
        )
        self._keepalive_seconds = settings.keepalive_seconds
        self._heard_at = clock.seconds()
        self._message_nonces = count(1)
        self._requests = PendingRequests(
            clock, numbered=handshake is not None, late=lambda error: self.end(error)
        )
        self.switch: StreamSwitch | None = None
        """The streams of this connection, once the server has agreed to carry any."""
        self._timer: Any = None
        self._error: ProxyServiceError | None = None
        self._is_ready = False
        self._is_relay = False  # it has said one frame, so it is no other kind of server
        self._first_bytes = b""
        self.dropped_frames = 0
        """Relayed frames that could not be read."""

    @property
    def speaks_part_a(self) -> bool:
        """No handshake, no numbered requests, one lease."""
        return self._handshake is None

    @property
    def local_address(self) -> str:
        """`host:port` of the near end."""
        return host_port_of(self.transport.getHost())

    # ------------------------------------------------------------- beginning

    def connectionMade(self) -> None:
        """Say Hello, or begin at once with a server of part A."""
        self.outlet = Outlet(self.transport, on_full=_nothing, on_drain=self._drained)
        self._guarded(self._begin)

    def _begin(self) -> None:
        configure_main_connection(self.transport)
        if self._handshake is None:
            self._ready()
            return
        self._timer = self._clock.callLater(CHALLENGE_SECONDS, self._no_challenge)
        hello = self._handshake.hello(DEFAULT_WINDOW_BYTES)
        self._handshake.hello_body = self.send(Opcode.HELLO, hello)[HEADER_BYTES:]

    def _no_challenge(self) -> None:
        what = self._what_answers()
        if not what:
            what = f"it is connected, but no relay answers within {CHALLENGE_SECONDS:g} s"
        self.end(UnreachableError(what))

    def _challenge(self, message: pb.Message, frame: Frame) -> None:
        if self._handshake is None:
            return
        body, channel = bytes(frame.body), channel_of(self.transport)
        proof = self._handshake.challenge_received(message, body, channel)
        self._timer.cancel()
        if proof is not None:
            self.send(Opcode.PROOF, proof)
        self._ready()

    def _ready(self) -> None:
        self._is_ready = True
        self._timer = self._clock.callLater(self._keepalive_seconds, self._keep_alive)
        self._owner.connection_ready(self)

    def _welcome(self, message: pb.Message, frame: Frame) -> None:
        welcome = cast("pb.Welcome", parse_payload(message))
        if self._handshake is None or not self._handshake.challenged:
            raise FrameError("a Welcome out of order")
        if welcome.keepalive_ms:
            least, most = KEEPALIVE_RANGE_SECONDS
            self._keepalive_seconds = min(max(welcome.keepalive_ms / 1000, least), most)
            self._timer.reset(self._keepalive_seconds)
        if welcome.features >> pb.FEATURE_STREAMS & 1 and self.switch is None:
            multiplexer = Multiplexer(DEFAULT_WINDOW_BYTES)
            network_id = self._settings.network_id
            self.switch = StreamSwitch(network_id, self.outlet, multiplexer, _no_opening)
            self._decoder.allow_streams(LARGEST_PAYLOAD_BYTES)
        self._owner.welcomed(self, welcome)

    def _stream_open(self, message: pb.Message, frame: Frame) -> None:
        if self.switch is None:
            raise FrameError("a stream that was not agreed on")
        opening = cast("pb.StreamOpen", parse_payload(message))
        stream = self.switch.multiplexer.opened(
            message.request_nonce, opening.initial_window, opening.server_window
        )
        if stream is not None:
            try:
                self._owner.visited(opening, self.switch, stream)
            finally:  # a stream that nobody holds is none, whatever went wrong
                if stream.local is None:
                    why = "nobody serves this here"
                    self.switch.multiplexer.reset(stream, pb.RESET_UNWANTED, why)
        self.switch.tell()

    # ------------------------------------------------------------- bytes in

    def bufferReceived(self, view: memoryview) -> None:
        """Bytes of the server; the view is valid during the call only."""
        if self._error is not None:
            return
        self._heard_at = self._clock.seconds()
        if not self._is_relay:
            self._first_bytes = (self._first_bytes + view)[:LONGEST_ANSWER_BYTES]
        self._intake.feed(view)

    def _guarded(self, act: Callable[..., None], *args: Any) -> None:
        """Do it; whatever it raises ends this connection, and its owner goes on elsewhere."""
        try:
            act(*args)
        except ProxyServiceError as error:
            self.end(error)
        except Exception as error:
            log.failure("a main connection failed")
            self.end(FrameError(f"what it says cannot be handled: {type(error).__name__}"))

    @property
    def is_over(self) -> bool:
        """Nothing of the server is heard any more."""
        return self._error is not None

    @property
    def hears(self) -> bool:
        """It asks for nothing that would have to wait here."""
        return True

    def piece(self, piece: StreamPiece) -> None:
        """A part of a StreamData."""
        assert self.switch is not None, "no streams were allowed"
        self._guarded(self.switch.piece, piece)

    def took_turn(self) -> None:
        """A node has one relay, and no account of what waits."""

    def unreadable(self, error: FrameError) -> None:
        """A relayed frame that cannot be read: its visitor's mistake."""
        self._is_relay = True
        self.dropped_frames += 1

    def broke(self, error: PeerError) -> None:
        """The server broke the protocol, or is another kind of server."""
        what = "" if self._is_relay else self._what_answers()
        self.end(UnreachableError(what) if what else error)

    def frame(self, frame: Frame, body: bytes | memoryview) -> None:
        """A frame of the server or of a visitor."""
        self._is_relay = True
        try:
            message = parse(pb.Message, body)
        except FrameError as error:
            self.unreadable(error)
            return
        self._guarded(self._message, message, frame)

    def _message(self, message: pb.Message, frame: Frame) -> None:
        if frame.flag == COMPRESSED:
            self._relayed(message)  # the server compresses nothing, and cannot look into this
        elif message.opcode in STREAM_OPCODES and self.switch is not None:
            check_bounds(message)
            self.switch.control(message)
        elif message.sender.net_key != SERVER_NET_KEY:
            self._relayed(message)
        elif method := _METHODS.get(message.opcode):
            check_bounds(message)
            method(self, message, frame)

    def _relayed(self, message: pb.Message) -> None:
        if message.opcode in NEVER_RELAYED or message.opcode in PART_B_OPCODES:
            self.dropped_frames += 1
            return
        try:
            taken = received(message, self._settings.network_id)
        except FrameError:
            self.dropped_frames += 1
            return
        self._owner.message_received(taken)

    # --------------------------------------------------- requests and answers

    def request(self, opcode: int, payload: ProtoMessage) -> Deferred[ProtoMessage]:
        """Ask the server; fires with the answer's payload.

        Fails with RefusedError, or with UnreachableError when the connection
        ends first. No answer within `requests.REPLY_SECONDS` ends the connection.
        """
        asked = self._requests.add(_ANSWERS[opcode])
        self.send(opcode, payload, self.last_nonce if self._handshake is not None else 0)
        return asked

    @property
    def last_nonce(self) -> int:
        """Number of the request that was sent last."""
        return self._requests.last_nonce

    def _answer(self, message: pb.Message, frame: Frame) -> None:
        self._requests.answered(message.request_nonce, message.opcode, parse_payload(message))

    def _refusal(self, message: pb.Message, frame: Frame) -> None:
        refusal = cast("pb.Refusal", parse_payload(message))
        reason = printable(refusal.reason) or f"refused with code {refusal.code}"
        error = RefusedError(refusal.code, reason, refusal.retry_after_ms / 1000)
        if self._requests.refused(message.request_nonce, error):
            return
        if message.request_nonce:
            self._owner.lease_lost(self, message.request_nonce, error)
        else:
            self.end(error)

    def _drain(self, message: pb.Message, frame: Frame) -> None:
        self._owner.draining(self, cast("pb.Draining", parse_payload(message)))

    # ------------------------------------------------------------- bytes out

    def send(
        self, opcode: int, payload: ProtoMessage | bytes = b"", request_nonce: int = 0
    ) -> bytes:
        """Write one control frame; returns it."""
        frame = encode_message(
            self._settings.network_id,
            opcode,
            payload,
            sender=self._identity.sender,
            message_nonce=next(self._message_nonces),
            request_nonce=request_nonce,
        )
        self.outlet.write(frame)
        return frame

    def _keep_alive(self) -> None:
        self._guarded(self._say_alive)

    def _say_alive(self) -> None:
        most_seconds = SILENT_INTERVALS * self._keepalive_seconds
        silent_seconds = self._clock.seconds() - self._heard_at
        if silent_seconds >= most_seconds:
            self.end(UnreachableError(f"nothing heard for {silent_seconds:.0f} seconds"))
            return
        # An answer comes a moment after its keepalive: without the second term
        # the last look would be a moment too early, and the next a whole interval late.
        next_seconds = min(self._keepalive_seconds, most_seconds - silent_seconds)
        self._timer = self._clock.callLater(next_seconds, self._keep_alive)
        self.send(Opcode.KEEPALIVE)

    def _drained(self) -> None:
        """The server has taken what waited for it."""
        if self.switch is not None:
            self.switch.tell()

    # --------------------------------------------------------------- the end

    def end(self, error: ProxyServiceError) -> None:
        """Give the connection up at once, because of ``error``."""
        if self._error is None:
            self._error = error
            self.transport.abortConnection()

    def close(self) -> None:
        """End it in order: what was said still leaves. Before anything was agreed nothing was."""
        if not self._is_ready:
            self.end(UnreachableError("closed"))
        elif self._error is None:
            self._error = UnreachableError("closed")
            self.outlet.close()
            self.transport.unregisterProducer()  # a paused one would put the close off
            self.transport.loseConnection()
            self._stop_timer()
            self._timer = self._clock.callLater(CLOSE_SECONDS, self.transport.abortConnection)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The transport is gone, for whatever reason: so hears everybody who waits for it."""
        error = self._error or foreign.call("an end's reason", None, self._why_lost, reason)
        error = self._error = error or UnreachableError("the relay closed the connection")
        foreign.in_turn(
            "the end of a main connection",
            self._stop_timer,
            self._intake.close,
            lambda: self.outlet.close(),
            self._lose_streams,
            lambda: self._requests.fail_all(error),
            lambda: self._owner.connection_ended(self, error),
        )

    def _lose_streams(self) -> None:
        if self.switch is not None:
            self.switch.lost("the main connection is gone")

    def _why_lost(self, reason: Failure) -> ProxyServiceError:
        error = explain(reason, self.server)
        if isinstance(error, UntrustedError):
            return error
        if self._is_relay:
            return error or UnreachableError("the relay closed the connection")
        return UnreachableError(self._what_answers() or str(error or self._closed_silently()))

    def _what_answers(self) -> str:
        """Another kind of server, if it is known for one by what it said first."""
        below_tls = heard_below(self.transport)
        what = what_answers(self._first_bytes or below_tls or b"", self.server)
        is_other = below_tls and not speaks_tls(below_tls)
        return what or (no_tls_there(self.server) if is_other else "")

    def _closed_silently(self) -> str:
        below_tls = heard_below(self.transport)
        return closed_silently(self.server, in_handshake=below_tls == b"")


def _no_opening(stream: Stream) -> bytes:
    raise AssertionError("nodes open no streams")


def _nothing() -> None:
    """Bytes wait in the kernel's way; TCP_USER_TIMEOUT watches over them."""


_ANSWERS: dict[int, int] = {
    Opcode.PROXY_REQUEST: Opcode.PROXY_RESPONSE,
    Opcode.RELEASE: Opcode.RELEASE,
}

_METHODS: dict[int, Callable[[NodeConnection, pb.Message, Frame], None]] = {
    Opcode.PROXY_RESPONSE: NodeConnection._answer,
    Opcode.CHALLENGE: NodeConnection._challenge,
    Opcode.WELCOME: NodeConnection._welcome,
    Opcode.REFUSAL: NodeConnection._refusal,
    Opcode.RELEASE: NodeConnection._answer,
    Opcode.DRAINING: NodeConnection._drain,
    Opcode.STREAM_OPEN: NodeConnection._stream_open,
}
