"""A node and a bad relay: whatever the relay says, the node is told within bounds and ends once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.protocol import Protocol

from proxyservice.errors import ProxyServiceError, RefusedError
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.net.turns import Turns
from proxyservice.node.connection import NodeConnection
from proxyservice.node.connection_owner import ConnectionSettings
from proxyservice.node.handshake import Handshake
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.known_relays import KnownRelays
from proxyservice.node.messages import Received
from proxyservice.streams.multiplexer import Stream
from proxyservice.streams.state import State
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.bounds import ADDRESS_BYTES, DAY_MS, ORIGIN_BYTES, REASON_BYTES
from proxyservice.wire.compression import compress
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, HEADER, encode_frame
from proxyservice.wire.relay_rules import SERVER_NET_KEY
from proxyservice.wire.stream_frames import stream_control_frame, stream_data_prefix
from tests.fuzz.script import Script
from tests.net.test_turns import RunningClock
from tests.node.joined import Joined

NET = DEFAULT_NETWORK_ID
SERVER = pb.ID(net_key=SERVER_NET_KEY, address="tcp://127.0.0.1:6008")
PEER = pb.ID(net_key=bytes(32), address="tcp://h:1")
MOST_BYTES = 1 << 16
SAID = (
    *(Opcode.PROXY_RESPONSE, Opcode.CHALLENGE, Opcode.WELCOME, Opcode.REFUSAL, Opcode.RELEASE),
    *(Opcode.DRAINING, Opcode.STREAM_OPEN, Opcode.KEEPALIVE_RESPONSE, Opcode.METRIC_RESPONSE, 1000),
)
OF_STREAMS = (*(Opcode.STREAM_DATA, Opcode.STREAM_WINDOW, Opcode.STREAM_END, Opcode.STREAM_RESET),)
WELCOME = pb.Welcome(features=3, keepalive_ms=15000)
CHALLENGE = pb.Challenge(version=1, server_nonce=bytes(32), relay_id=bytes(32))
OPENING = pb.StreamOpen(
    visitor_address="192.0.2.9:1", proxy_address="h:2", initial_window=9000, server_window=9000
)


class Relay(Protocol):
    """Says what the script says, and hears nothing."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        pass


class Local:
    """The application's end of a stream, which consumes what it gets."""

    def __init__(
        self, switch: StreamSwitch, stream: Stream, expect: Callable[[bool], None]
    ) -> None:
        self.switch, self.stream, self.over = switch, stream, False
        self.expect = expect

    def stream_received(self, view: memoryview) -> None:
        self.expect(not self.over)
        self.switch.consumed(self.stream, len(view))

    def stream_ended(self) -> None:
        self.expect(not self.over)

    def stream_reset(self, code: int, reason: str) -> None:
        self.expect(not self.over)
        self.expect(len(reason) <= REASON_BYTES)
        self.over = True

    def stream_ready(self) -> None:
        self.expect(not self.over)

    def send_turn(self) -> None:
        pass


class Owner:
    """What is reported: within bounds, and nothing after the end."""

    def __init__(self) -> None:
        self.ended: list[ProxyServiceError] = []
        self.locals: list[Local] = []
        self.wrong: list[str] = []

    def expect(self, is_so: bool) -> None:
        """Kept for the end: the node catches what its application raises."""
        if not is_so:
            self.wrong.append("".join(traceback.format_stack(limit=4)))

    def connection_ready(self, connection: NodeConnection) -> None:
        self.expect(not self.ended)

    def welcomed(self, connection: NodeConnection, welcome: pb.Welcome) -> None:
        self.expect(not self.ended)
        self.expect(welcome.keepalive_ms <= DAY_MS)
        self.expect(welcome.visitors_per_second >= 0)

    def message_received(self, message: Received) -> None:
        self.expect(not self.ended)

    def visited(self, opening: pb.StreamOpen, switch: StreamSwitch, stream: Stream) -> None:
        self.expect(not self.ended)
        self.expect(len(opening.visitor_address) <= ADDRESS_BYTES)
        self.expect(len(opening.origin_address) <= ORIGIN_BYTES)
        stream.local = Local(switch, stream, self.expect)
        self.locals.append(stream.local)

    def lease_lost(self, connection: NodeConnection, nonce: int, error: RefusedError) -> None:
        self.check_refusal(error)

    def draining(self, connection: NodeConnection, hint: pb.Draining) -> None:
        self.expect(not self.ended)
        self.expect(max(hint.reconnect_in_ms, hint.try_for_ms) <= DAY_MS)

    def connection_ended(self, connection: NodeConnection, error: ProxyServiceError) -> None:
        self.expect(not self.ended)
        self.ended.append(error)
        self.expect("cannot be handled" not in str(error))
        if isinstance(error, RefusedError):
            self.check_refusal(error)

    def check_refusal(self, error: RefusedError) -> None:
        self.expect(error.code >= 0)
        self.expect(error.retry_after_seconds * 1000 <= DAY_MS)
        self.expect(len(error.reason) <= REASON_BYTES)


class Scene:
    """A node, connected to a relay that the script speaks for."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.clock, self.owner, self.relay = RunningClock(), Owner(), Relay()
        identity, part_b = NodeIdentity(), script.number() & 1
        handshake = Handshake(NET, identity, "relay", KnownRelays()) if part_b else None
        settings = ConnectionSettings(NET, max_frame_bytes=MOST_BYTES)
        owner: Any = self.owner
        self.node = NodeConnection(
            "relay", settings, identity, owner, handshake, self.clock, Turns(self.clock)
        )
        self.pair = Joined(self.node, self.relay)
        self.nonce = 0

    def say(self, data: bytes) -> None:
        self.relay.transport.write(data)
        self.pair.pump(1 + self.script.number() * 16)

    def message(self, opcode: int, payload: Any, who: pb.ID = SERVER, nonce: int = 0) -> None:
        self.say(encode_message(NET, opcode, payload, sender=who, request_nonce=nonce))

    def begin(self) -> None:
        self.message(Opcode.CHALLENGE, CHALLENGE)
        self.message(Opcode.WELCOME, WELCOME)

    def open(self) -> None:
        self.nonce += 1
        self.message(Opcode.STREAM_OPEN, OPENING, nonce=self.nonce)

    def speak(self) -> None:
        """Any payload, as the relay or as a peer, whose word for it there is only here."""
        script = self.script
        opcode, nonce = script.choice(SAID), script.number()
        who = SERVER if script.number() & 3 else PEER
        self.message(opcode, script.take(script.number()), who, nonce)

    def compressed(self) -> None:
        algorithm, times = self.script.number() % 6, self.script.choice((1, 9, 900))
        body = self.script.take(self.script.number() % 64) * times
        if self.script.number() & 1:
            body = bytes(compress(algorithm, body))
        if 0 < len(body) <= MOST_BYTES:
            self.say(encode_frame(NET, body, flag=1, algorithm=algorithm))

    def stream(self) -> None:
        script = self.script
        opcode, stream_id = script.choice(OF_STREAMS), script.number() % 4
        payload = script.take(script.number() % 24)
        if opcode == Opcode.STREAM_DATA:
            self.say(stream_data_prefix(NET, stream_id, len(payload)) + payload)
        else:
            self.say(stream_control_frame(NET, opcode, stream_id, payload))

    def many(self) -> None:
        """More than a turn's work of something small."""
        frame = stream_control_frame(NET, Opcode.STREAM_END, self.script.number() % 3, b"")
        self.say(frame * (self.script.number() << 2))

    def raw(self) -> None:
        body = self.script.take(self.script.number())
        head = b"" if self.script.number() & 1 else HEADER.pack(NET, 0, 0, max(1, len(body)))
        self.say(head + body)

    def ask(self) -> None:
        if not self.node.is_over:
            asked = self.node.request(Opcode.PROXY_REQUEST, pb.ProxyRequest())
            asked.addErrback(lambda failure: failure.trap(ProxyServiceError) and None)

    def wait(self) -> None:
        self.clock.advance(self.script.number() / 8)
        self.pair.pump()

    def turn(self) -> None:
        self.clock.turn()
        self.pair.pump()

    def finish(self) -> None:
        """All that was said is heard in the end; then the relay is gone, and so is everything."""
        for _ in range(10_000):
            if not self.node._intake.waiting or self.owner.ended:
                break
            self.turn()
        else:
            raise AssertionError("it never comes to an end")
        assert self.node._intake.held_bytes <= 3 * MOST_BYTES + 64
        self.pair.server.abortConnection()
        assert len(self.owner.ended) == 1
        assert all(one.stream.state is State.GONE for one in self.owner.locals)
        self.turn()
        assert not self.clock.getDelayedCalls()


ACTS: tuple[Callable[[Scene], None], ...] = (
    *(Scene.begin, Scene.open, Scene.speak, Scene.stream, Scene.compressed),
    *(Scene.many, Scene.raw, Scene.ask, Scene.wait, Scene.turn),
)


def check(data: bytes) -> None:
    script = Script(data)
    scene = Scene(script)
    while script:
        script.choice(ACTS)(scene)
        assert len(scene.owner.ended) <= 1
    scene.finish()
    assert not scene.owner.wrong, scene.owner.wrong[0]


def spoken(opcode: int, payload: bytes, nonce: int = 0) -> bytes:
    """The act `speak`, as bytes of a script."""
    return bytes((2, SAID.index(opcode), nonce, 1, len(payload))) + payload + b"\xff"


def seeds() -> Iterator[bytes]:
    begin, ask = b"\1\0\xff\xff", b"\7"
    opened = begin + b"\1\xff\1\xff"
    yield opened + b"\3\0\1\5hello\xff\3\1\1\2\x08\5\xff\3\2\1\0\xff"
    yield opened + b"\3\3\1\4\x08\1\x12\0\xff\5\1\xff\xff\x09\x09"
    yield opened + b"\5\1\xff\xff" * 3 + b"\x09"
    granted = pb.ProxyResponse(proxy_address="h:1", generation=1).SerializeToString()
    yield begin + ask + spoken(Opcode.PROXY_RESPONSE, granted, 1)
    yield b"\0" + ask + spoken(Opcode.PROXY_RESPONSE, granted)
    for refusal in (
        pb.Refusal(code=5, reason="full", retry_after_ms=1 << 62),
        pb.Refusal(code=-1 & 0x7FFFFFFF, reason="r" * 200),
    ):
        for nonce in (0, 1):
            yield begin + ask + spoken(Opcode.REFUSAL, refusal.SerializeToString(), nonce)
    yield begin + spoken(Opcode.REFUSAL, b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
    for hint in (pb.Draining(reconnect_in_ms=1 << 62), pb.Draining(reconnect_in_ms=5)):
        yield begin + spoken(Opcode.DRAINING, hint.SerializeToString())
    odd = pb.Welcome(keepalive_ms=(1 << 32) - 1, visitors_per_second=-1.0)
    yield b"\1\0\xff\xff" + spoken(Opcode.WELCOME, odd.SerializeToString())
    for algorithm in (2, 3, 4):
        yield begin + bytes((4, algorithm, 2, 2)) + b"\x5a\0" + b"\1\xff\x09\x09"
    yield begin + b"\4\4\2\x09\x80\x40\x20\x10\x08\x04\x02\x01\0\0\xff" + b"\x09" * 4
    yield begin + b"\6\4abcd\1\xff\x08\xff\x08\xff\x08\xff"
