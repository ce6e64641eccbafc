"""Main connections: what a node says to the service, and what it hears.

A `MainConnection` turns bytes into frames, has them heard by the tables of
`requests.py`, answers, and decides when the connection ends. Rules of frames
are in `wire`, rules of leases in `leases`, what is held in `node_leases.py`;
here they meet one node's transport. A connection whose first frame is Hello speaks part B of the
protocol, every other one part A, for good.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, cast

from google.protobuf.message import Message as ProtoMessage
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyservice.errors import FrameError, PeerError, RefusedError
from proxyservice.leases.lease import Identity, Lease
from proxyservice.net.addresses import canonical, format_host_port
from proxyservice.net.eager import RECEIVE_BYTES, EagerProtocol
from proxyservice.net.intake import Intake
from proxyservice.net.keepalive import configure_main_connection
from proxyservice.net.outlet import Outlet
from proxyservice.net.stream_switch import LARGEST_PAYLOAD_BYTES, STREAM_OPCODES, StreamSwitch
from proxyservice.net.tcp_answers import tcp_answers
from proxyservice.net.tls_transport import tls_failure
from proxyservice.net.vanished import watch
from proxyservice.server.access import NOBODY, Caller
from proxyservice.server.answers import Answers
from proxyservice.server.handshake import Handshake
from proxyservice.server.limits import ServiceLimits
from proxyservice.server.node_leases import NodeLeases
from proxyservice.server.patience import Late, Patience
from proxyservice.server.requests import heard_in, hello
from proxyservice.server.rules import Rules
from proxyservice.server.stream_visitor import StreamVisitor
from proxyservice.streams.multiplexer import Multiplexer, Stream
from proxyservice.text import printable
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.bounds import BESIDE_BYTES, check_bounds
from proxyservice.wire.envelope import Opcode, check_main
from proxyservice.wire.framing import (
    COMPRESSED,
    Frame,
    FrameDecoder,
    StreamPiece,
)
from proxyservice.wire.parsing import parse

if TYPE_CHECKING:
    from proxyservice.server.factory import MainFactory

CONTROL_READ_BYTES = 16 * 1024
"""What waits to be heard in one connection that sends more than a turn's work."""

LEAST_READ_BYTES = 1024
"""Of a stranger who has said too much: enough to notice it."""

CROWDED_READ_BYTES = 64 * 1024
"""The same for a node that also sends stream data, while it does not read what it is sent."""

UNCOUNTED_BYTES = 4 * 1024
"""Of an unfinished frame: what every connection may have before it says who it is."""

log = Logger()


class MainConnection(EagerProtocol):
    """The connection which a node opened to the service."""

    factory: MainFactory

    def connectionMade(self) -> None:
        """A socket was accepted; nothing is known of its owner yet."""
        factory, settings = self.factory, self.factory.settings
        limits = settings.limits
        self._closed = self._watch(limits)
        peer, host = self.transport.getPeer(), self.transport.getHost()
        self.source = canonical(peer.host)
        self.local_host = canonical(host.host)
        self.memory_source = factory.sources.counted_as(self.source)
        self.identity: Identity | None = None
        self.handshake: Handshake | None = None
        self.switch: StreamSwitch | None = None
        self.leases = NodeLeases(self, factory)
        address = settings.node_address or "tcp://" + format_host_port(self.local_host, host.port)
        self._decoder = FrameDecoder(settings.network_id, limits.control_frame_bytes)
        self._intake = Intake(
            self,
            self._decoder,
            factory.turns,
            limits.inflated_frame_bytes,
            BESIDE_BYTES,
            self.memory_source,
        )
        self.outlet = Outlet(self.transport, on_drain=self._drained, on_full=self._filled)
        high_bytes = limits.answers_high_bytes
        self._answers = Answers(self.outlet, settings.network_id, address, high_bytes)
        self.closing = False
        self._refused = False
        self._bytes_before_identity = 0
        self._first_frame = True
        self.heard_bytes = 0
        """Of the frame that is being heard, as it came."""
        self._large_tail = False  # of a frame that is not complete
        self.patience = Patience(limits, factory.now())
        self._be_punctual()
        factory.arrived(self)

    def _watch(self, limits: ServiceLimits) -> Callable[[], None]:
        """See to it that a dead path is found, and a node that reads nothing is not taken for one.

        Return what is to be called when the transport is closed.
        """
        seconds, transport = limits.tcp_unacknowledged_seconds, self.transport
        kernels = None if tcp_answers(transport) is not None else seconds  # else it cannot tell
        configure_main_connection(transport, limits.tcp_keepalive_seconds, kernels)
        return watch(transport, seconds, lambda: self.abort("its path is dead"))

    # ------------------------------------------------------------- bytes in

    def receiveRoom(self) -> int:
        """How much to read: little while only control frames come, which are worked on one by one.

        Before it is known who this is, no more than may come until then.
        """
        if self.identity is None:
            return max(LEAST_READ_BYTES, self._left_before_identity())
        if self.switch is None:
            return CONTROL_READ_BYTES
        return RECEIVE_BYTES if self.outlet.writable else CROWDED_READ_BYTES

    def _left_before_identity(self) -> int:
        limit_bytes = self.factory.settings.limits.bytes_before_identity
        return limit_bytes - self._bytes_before_identity

    def bufferReceived(self, view: memoryview) -> None:
        """Bytes of the node; the view is valid during the call only."""
        if self.is_over:
            return
        if self.patience.heard(self.factory.now()):
            self._be_punctual()
            self.factory.spoke(self)
        if self.identity is None:
            most_bytes = max(0, self._left_before_identity())
            stranger, view = view[:most_bytes], view[most_bytes:]
            self._bytes_before_identity += len(stranger)
            self._intake.feed(stranger)
            if self.identity is None and view and not self._intake.waiting:
                self.refuse_peer(FrameError("too many bytes and no ProxyRequest"))
        if view and not self.is_over:
            self._intake.feed(view)
        self._count_input()

    def _count_input(self) -> None:
        if self._large_tail or self._intake.held_bytes > UNCOUNTED_BYTES:
            self._count_memory()

    def took_turn(self) -> None:
        """Less waits to be heard than before."""
        if not self.is_over:
            self._count_input()

    def charge(self, units: int) -> None:
        """The frame that is being heard is so much more work than others."""
        self._intake.charge(units)

    @property
    def is_over(self) -> bool:
        """Nothing that it says is heard any more."""
        return self.closing or self._refused

    @property
    def hears(self) -> bool:
        """It is not heard while it does not read its answers."""
        return not self._answers.full

    def piece(self, piece: StreamPiece) -> None:
        """A part of a StreamData."""
        assert self.switch is not None, "no streams were allowed"
        self.switch.piece(piece)

    def frame(self, frame: Frame, body: bytes | memoryview) -> None:
        """A frame of any other kind, and its body inflated."""
        settings = self.factory.settings
        message = parse(pb.Message, body)
        first, self._first_frame = self._first_frame, False
        if self.switch is not None and message.opcode in STREAM_OPCODES:
            if frame.flag == COMPRESSED:
                raise FrameError("a compressed stream frame")
            check_bounds(message)
            self.switch.control(message)
            return
        check_main(message, settings.network_id)
        if first and message.opcode == Opcode.HELLO:
            hello(self, message, bytes(frame.body))
            return
        hear = heard_in(message.opcode, part_b=self.handshake is not None)
        if hear is not None:
            self.heard_bytes = len(frame.raw)
            hear(self, message)

    def unreadable(self, error: FrameError) -> None:
        """What is no message ends the connection."""
        try:
            raise error
        finally:
            del error  # else it and this frame hold each other, and with them all of the body

    def broke(self, error: PeerError) -> None:
        """As does whatever else breaks the protocol."""
        if not self.is_over:
            self.refuse_peer(error)

    # ---------------------------------------------------------------- who it is

    @property
    def caller(self) -> Caller:
        """What the node has shown of itself."""
        return NOBODY if self.handshake is None else self.handshake.caller

    @property
    def rules(self) -> Rules:
        """What it may do, now."""
        return self.factory.access.rules(self.caller)

    def check_access(self) -> None:
        """The operator's files have changed: who would not be let in now is cut, at once."""
        if self.identity is None or self.closing or self._refused:
            return
        try:
            self.factory.access.check(self.caller)
        except RefusedError as error:
            self.leases.let_go(hold=False)
            self.refuse(error)
        else:
            self.leases.rules_changed()

    def identified(self, identity: Identity) -> None:
        """It is known who this is; a node of part B is told what holds for it."""
        self.identity = identity
        self.factory.identified(self)
        now = self.factory.now()
        if self.handshake is None:
            self.patience.identified(now, inf)
            self._be_punctual()
            return
        self.patience.identified(now, self.factory.settings.silence_seconds)
        self._be_punctual()
        features = self.handshake.features
        welcome = self.factory.welcome(self, features, proved=identity.proved)
        self.answer(Opcode.WELCOME, welcome)
        if self.handshake.speaks(pb.FEATURE_STREAMS):
            most = self.factory.settings.limits.streams_per_connection
            multiplexer = Multiplexer(self.handshake.window_bytes, most)
            multiplexer.let_windows_grow(self.factory.memory.windows_grow)
            network_id = self.factory.settings.network_id
            self.switch = StreamSwitch(network_id, self.outlet, multiplexer, self._opening)
            self._decoder.allow_streams(LARGEST_PAYLOAD_BYTES)

    def speaks(self, feature: pb.Feature) -> bool:
        """Whether both sides have this feature of part B."""
        return self.handshake is not None and self.handshake.speaks(feature)

    def proxy_address(self, lease: Lease) -> str:
        """Of a lease of this node, as it is announced."""
        host = self.factory.settings.public_host or self.local_host
        return format_host_port(host, lease.port)

    def _opening(self, stream: Stream) -> bytes:
        visitor: StreamVisitor = stream.local
        return self._answers.encode(Opcode.STREAM_OPEN, visitor.opening(), stream.id)

    # ------------------------------------------------------------- bytes out

    def answer(
        self, opcode: int, payload: ProtoMessage | bytes = b"", request_nonce: int | None = None
    ) -> bytes:
        """Send a frame and return it; nothing, once this connection is being closed."""
        if self.closing:
            return b""
        frame = self._answers.send(opcode, payload, request_nonce)
        if not self.outlet.writable:
            self._count_memory()
        return frame

    def refuse_request(self, error: RefusedError, request_nonce: int) -> None:
        """Part B: this request is refused, and nothing else."""
        self.factory.refused(self, error)
        refusal = pb.Refusal(
            code=cast("pb.RefusalCode", error.code),
            reason=printable(error.reason),
            retry_after_ms=int(error.retry_after_seconds * 1000),
        )
        self.answer(Opcode.REFUSAL, refusal, request_nonce)

    def refuse(self, error: RefusedError) -> None:
        """Nothing for this node here: it is told if it understands, and closed a second later.

        What it says meanwhile is not heard: it might be a claim after a failed proof, or a
        takeover by the one that was just superseded.
        """
        self._refused = True
        if self.handshake is not None:
            self.refuse_request(error, 0)
        else:
            self.factory.refused(self, error)
        after_seconds = self.factory.settings.limits.close_after_refusal_seconds
        self.patience.close_later(self.factory.now(), after_seconds)
        self._be_punctual()

    def refuse_peer(self, error: PeerError) -> None:
        """The node broke the protocol; this ends its connection and nobody else's."""
        if self.handshake is not None:
            self.refuse_request(RefusedError(pb.REFUSAL_MALFORMED, str(error)), 0)
        else:
            self.factory.refused(self, error)
        self.close()

    def broken(self, failure: Failure) -> None:
        """Our own mistake: logged whole, and this connection ends."""
        log.failure("a main connection failed", failure)
        self.abort("failed")

    # ------------------------------------------------------ pace and the end

    def sendProgressed(self) -> None:
        """The node has taken some of what waits."""
        self._count_memory()

    def _filled(self) -> None:
        """Bytes wait for the node, or more of them: it must take some in time, or it is dead."""
        if self.patience.queued(self.factory.now(), self.outlet.sent_bytes):
            self._be_punctual()
        self._count_memory()

    def _drained(self) -> None:
        """The node has taken what waited for it."""
        self.patience.drained()
        self._answers.left()
        self._count_memory()
        if self.switch is not None:
            self.switch.tell()
        if not self.is_over:
            self._intake.go_on()
        self.leases.close_if_drained()

    def _count_memory(self) -> None:
        """What waits for the node, what waits for a lease, and what of its own is not complete."""
        unfinished_bytes = self._intake.held_bytes
        self._large_tail = unfinished_bytes > UNCOUNTED_BYTES
        if not self._large_tail:
            unfinished_bytes = 0
        waiting_bytes = self.outlet.queued_bytes + self.leases.owed_bytes
        self.factory.memory.hold(self, waiting_bytes + unfinished_bytes)

    def owes(self) -> None:
        """An answer waits for a lease, or does no longer."""
        if not self.closing:
            self._count_memory()

    def memory_short(self) -> None:
        """More waits for this node than for others of its source."""
        self._cut("memory is short")

    def _cut(self, why: str) -> None:
        """End the connection of a node that does not keep up, and may have been brought to that."""
        answers = tcp_answers(self.transport)
        limit_seconds = self.factory.settings.limits.write_stall_seconds
        if answers is None or answers.alive_within(limit_seconds / 2):
            self.leases.cut()
        self.abort(why)

    def _be_punctual(self) -> None:
        at = self.patience.next_deadline()
        if at is None:
            self.factory.deadlines.forget(self)
        else:
            self.factory.deadlines.set(self, at)

    def deadline_passed(self, now: float) -> float | None:
        """The service's tick: this connection may be late with something."""
        late = self.patience.verdict(now, self.outlet.sent_bytes)
        if late is Late.CLOSE:
            self.close()
        elif late is Late.IDENTITY:
            self._still_unknown(now)
        elif late is Late.LEASELESS:
            waits = self.leases.waits_for_port
            if self.patience.looked_at(now, has_lease=self.leases.any or waits):
                self.factory.refused(self, FrameError(late.value))
                self.close()
        elif late is not None:
            end = self.abort if late is Late.ABORT else self._cut
            end(late.value)
            return None
        return self.patience.next_deadline()

    def _still_unknown(self, now: float) -> None:
        """A silent one may be what a node leaves behind when it reconnects, and opens again."""
        silent = not self.patience.has_spoken
        if silent and self.factory.spares(self):
            self.patience.spared(now)
        elif silent and self.factory.expects_silence(self):
            self.close()
        else:
            self.refuse_peer(FrameError(Late.IDENTITY.value))

    def drain(self, hint: pb.Draining) -> None:
        """The service is about to stop: close when no visitor is left, without new ones."""
        if self.identity is not None and self.speaks(pb.FEATURE_DRAINING):
            self.answer(Opcode.DRAINING, hint)
        self.leases.drain(hint.reconnect_in_ms / 1000)

    def close(self) -> None:
        """End this connection once what was said has left; visitors are cut now."""
        if self.closing:
            return
        self._let_go()
        self.outlet.close()
        self.transport.unregisterProducer()
        self.patience.closing(self.factory.now())
        self._be_punctual()
        self.transport.loseConnection()

    def abort(self, why: str) -> None:
        """End this connection at once."""
        self.factory.refusals.aborted(self.source, why)
        self._let_go()
        self.transport.abortConnection()

    def _let_go(self) -> None:
        """Give up what this connection holds; whatever comes late finds nothing."""
        self.closing = True
        self._intake.close()
        self.leases.let_go()
        if self.switch is not None:
            self.switch.lost("the node is gone")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The transport is gone, for whatever reason."""
        if why := tls_failure(reason):
            self.factory.refused(self, FrameError(f"TLS failed: {why}"))
        self._closed()
        self._let_go()
        self.outlet.close()
        self.factory.memory.hold(self, 0)
        self.factory.deadlines.forget(self)
        self.factory.gone(self)
