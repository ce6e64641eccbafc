"""Relays of the node's world: made of the wire alone, good, or with lies of their own."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from proxyservice.node.connection import SERVER_NET_KEY
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, HEADER_BYTES
from proxyservice.wire.stream_frames import stream_control_frame
from tests.simulation.echoed_visitor import EchoedVisitor
from tests.simulation.lies import MOMENTS, lies_of
from tests.simulation.network import Listener, Socket
from tests.simulation.peers import Peer

if TYPE_CHECKING:
    from tests.simulation.node_world import NodeWorld

SENDER = pb.ID(net_key=SERVER_NET_KEY, address="tcp://127.0.0.1:6008")
VISITOR = pb.ID(net_key=b"visitor", address="tcp://203.0.113.1:1")
FEATURES = 1 << pb.FEATURE_STREAMS | 1 << pb.FEATURE_RELEASE | 1 << pb.FEATURE_DRAINING
RELAYED = 1000
DELIVERED_SECONDS = 30.0


class RelayConnection(Peer):
    """One main connection, as its relay sees it."""

    def __init__(self, relay: ScriptedRelay, opened: Socket) -> None:
        self.socket, self.over = None, False
        self._unsent, self._ends = bytearray(), False
        self.relay, self.world = relay, relay.world
        self.random = Random(relay.world.next_seed())
        self.is_mute = relay.seems_too_new
        self.draining = False
        self.granted: dict[str, int] = {}
        self.visitors: dict[int, EchoedVisitor] = {}
        self.window_bytes = 0
        self.streams = self.keepalives = 0
        self._got = b""
        moment = None if relay.is_good else self.random.choice(MOMENTS)
        self._lies_at = moment
        self._answered(opened)

    # --------------------------------------------------------- what it hears

    def connected(self) -> None:
        self._lie("accept")

    def arrived(self, data: bytes) -> None:
        self._got += data
        while len(self._got) >= HEADER_BYTES and not self.over:
            (size,) = struct.unpack_from(">I", self._got, 6)
            if len(self._got) < HEADER_BYTES + size:
                return
            body = self._got[HEADER_BYTES : HEADER_BYTES + size]
            self._got = self._got[HEADER_BYTES + size :]
            message = pb.Message.FromString(body)
            if self.is_mute:
                continue
            answer = _ANSWERS.get(message.opcode)
            if answer is not None:
                answer(self, message)
            self._lie(message.opcode)

    def finished(self) -> None:
        self._ended()
        self.close()

    def lost(self) -> None:
        self._ended()

    def _ended(self) -> None:
        if self.relay.is_good and self.window_bytes and not (self.is_mute or self.draining):
            self.world.check_leaving(self.relay)

    def _lie(self, moment: object) -> None:
        if moment == self._lies_at and not self.over:
            self._lies_at = self.random.choice(("never", moment))
            for lie in lies_of(self.random):
                if not self.over:
                    self.world.trace(self.relay.name, "lies:", lie.__name__)
                    lie(self)

    # ------------------------------------------------------------ what it says

    def write(self, data: bytes) -> None:
        if not (self.over or self._ends):
            super().write(data)

    def say(self, opcode: int, payload: Any = b"", nonce: int = 0, who: pb.ID = SENDER) -> None:
        frame = encode_message(DEFAULT_NETWORK_ID, opcode, payload, sender=who, request_nonce=nonce)
        self.write(frame)

    def control(self, opcode: int, stream_id: int, payload: bytes = b"") -> None:
        self.write(stream_control_frame(DEFAULT_NETWORK_ID, opcode, stream_id, payload))

    def _hello(self, message: pb.Message) -> None:
        self.window_bytes = pb.Hello.FromString(message.message).initial_window
        challenge = pb.Challenge(
            version=1, server_nonce=b"n" * 32, relay_id=self.relay.id, valid_for_ms=10_000
        )
        self.say(Opcode.CHALLENGE, challenge)

    def _proof(self, message: pb.Message) -> None:
        self.say(Opcode.WELCOME, pb.Welcome(features=FEATURES, proved=True, keepalive_ms=15_000))

    def _request(self, message: pb.Message) -> None:
        origin = pb.ProxyRequest.FromString(message.message).origin_address
        self.granted[origin] = message.request_nonce
        address = f"{self.relay.name}:{20000 + len(self.granted)}"
        grant = pb.ProxyResponse(origin_address=origin, proxy_address=address, generation=1)
        self.say(Opcode.PROXY_RESPONSE, grant, message.request_nonce)
        self._visitor_later()

    def _keepalive(self, message: pb.Message) -> None:
        self.say(Opcode.KEEPALIVE_RESPONSE)

    # ---------------------------------------------------------------- visitors

    def _visitor_later(self) -> None:
        self.world.timeline.after(self.random.expovariate(1 / 40), self._visitor)

    def _visitor(self) -> None:
        if self.over or self.draining or self.world.stopping:
            return
        origin = self.random.choice(list(self.granted))
        if origin:
            self.streams += 1
            self.visitors[self.streams] = EchoedVisitor(self, self.streams, origin)
        else:
            self._relayed()
        self._visitor_later()

    def _relayed(self) -> None:
        text = b"message %d" % self.world.next_seed()
        self.say(RELAYED, text, who=VISITOR)
        self.world.timeline.after(DELIVERED_SECONDS, self._must_be_heard, text)

    def _must_be_heard(self, text: bytes) -> None:
        heard = text in self.world.messages
        assert heard or self.over or not self.relay.is_good, f"{text!r} was not delivered"
        self.world.count("is heard" if heard else "is lost")

    def _of_stream(self, message: pb.Message) -> None:
        visitor = self.visitors.get(message.request_nonce)
        if visitor is not None:
            visitor.heard(message.opcode, message.message)

    def drain(self) -> None:
        """In order: the node goes, and comes again."""
        self.draining = True
        self.say(Opcode.DRAINING, pb.Draining(reconnect_in_ms=2000, try_for_ms=60_000))
        self.world.timeline.after(20.0, self._close_drained)

    def _close_drained(self) -> None:
        if not self.over:
            self.close()


_ANSWERS: dict[int, Callable[[RelayConnection, pb.Message], None]] = {
    Opcode.HELLO: RelayConnection._hello,
    Opcode.PROOF: RelayConnection._proof,
    Opcode.PROXY_REQUEST: RelayConnection._request,
    Opcode.KEEPALIVE: RelayConnection._keepalive,
    Opcode.STREAM_DATA: RelayConnection._of_stream,
    Opcode.STREAM_END: RelayConnection._of_stream,
    Opcode.STREAM_RESET: RelayConnection._of_stream,
}


class ScriptedRelay:
    """Listens at a port of its own while it is up."""

    def __init__(self, world: NodeWorld, number: int, *, is_good: bool, has_dates: bool) -> None:
        self.world, self.port = world, 6000 + number
        self.name = f"relay{number}"
        self.id = bytes([number]) * 32
        self.is_good, self.has_dates = is_good, has_dates
        self.connections: list[RelayConnection] = []
        self.up_since: float | None = None
        self._listener: Listener

    @property
    def seems_too_new(self) -> bool:
        """Its certificate is not yet valid, to a node whose clock is behind."""
        return self.has_dates and self.world.clock_is_behind

    def start(self) -> None:
        if self.up_since is None:
            self.up_since = self.world.timeline.now
            self._listener = self.world.network.listen(self.port)
            self._listener.wake = self._accept

    def _accept(self) -> None:
        while self._listener.readable:
            opened, _ = self._listener.accept()
            self.connections = [one for one in self.connections if not one.over]
            self.connections.append(RelayConnection(self, opened))

    def crash(self) -> None:
        """Its machine says RST to everybody."""
        if self.up_since is None:
            return
        self.world.trace(self.name, "crashes")
        self.up_since = None
        self._listener.close()
        for one in self.connections:
            if not one.over:
                one.reset()

    def drain(self) -> None:
        self.world.trace(self.name, "drains")
        for one in self.connections:
            if not one.over and one.granted:
                one.drain()
