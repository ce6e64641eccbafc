"""A server that says what the test tells it to, made of the wire alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message as ProtoMessage
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from zope.interface import implementer

from proxyservice.node.dial import Server
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, decode_message, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, Frame, FrameDecoder
from proxyservice.wire.relay_rules import SERVER_NET_KEY
from tests.node.joined import Joined

SENDER = pb.ID(net_key=SERVER_NET_KEY, address="tcp://127.0.0.1:6008")


class ScriptedConnection(Protocol):
    """One accepted main connection; answers ProxyRequests and Keepalives as part A does."""

    transport: Any

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.decoder = FrameDecoder(DEFAULT_NETWORK_ID, 1 << 26)
        self.heard: list[pb.Message] = []
        self.lost = False
        self.pair: Joined

    def dataReceived(self, data: bytes) -> None:
        for item in self.decoder.feed(data):
            assert isinstance(item, Frame)
            message = decode_message(item)
            self.heard.append(message)
            answer = self.server.script.get(message.opcode)
            if answer is not None:
                answer(self, message)

    def opcodes(self) -> list[int]:
        return [message.opcode for message in self.heard]

    def say(self, opcode: int, payload: ProtoMessage | bytes = b"", nonce: int = 0) -> None:
        frame = encode_message(
            DEFAULT_NETWORK_ID, opcode, payload, sender=SENDER, request_nonce=nonce
        )
        self.transport.write(frame)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


def grant(connection: ScriptedConnection, message: pb.Message) -> None:
    request = pb.ProxyRequest.FromString(message.message)
    answer = pb.ProxyResponse(
        origin_address=request.origin_address, proxy_address=connection.server.address
    )
    connection.say(Opcode.PROXY_RESPONSE, answer, message.request_nonce)


def keep_alive(connection: ScriptedConnection, message: pb.Message) -> None:
    connection.say(Opcode.KEEPALIVE_RESPONSE)


@implementer(IStreamClientEndpoint)
class ScriptedServer:
    """An endpoint that connects to itself; also the list of what connected."""

    def __init__(self, name: str = "relay:6008", address: str = "127.0.0.1:20000") -> None:
        self.name = name
        self.address = address
        self.up = True
        self.attempts: list[float] = []
        self.connections: list[ScriptedConnection] = []
        self.clock: Clock | None = None
        self.script: dict[int, Callable[[ScriptedConnection, pb.Message], None]] = {
            Opcode.PROXY_REQUEST: grant,
            Opcode.KEEPALIVE: keep_alive,
        }

    def as_server(self) -> Server:
        return Server(self.name, lambda: self)

    def connect(self, factory: Any) -> Deferred[Any]:
        self.attempts.append(self.clock.seconds() if self.clock is not None else 0.0)
        if not self.up:
            return fail(ConnectError())
        client = factory.buildProtocol(None)
        server = ScriptedConnection(self)
        self.connections.append(server)
        server.pair = Joined(client, server)
        return succeed(client)

    @property
    def last(self) -> ScriptedConnection:
        return self.connections[-1]

    def pump(self) -> None:
        for connection in self.connections:
            connection.pair.pump()

    def live(self) -> list[ScriptedConnection]:
        return [one for one in self.connections if not one.lost]


def run(clock: Clock, servers: list[ScriptedServer], seconds: float, step: float = 0.05) -> None:
    """Let time pass, moving bytes at every moment."""
    for server in servers:
        server.pump()
    for _ in range(round(seconds / step)):
        clock.advance(step)
        for server in servers:
            server.pump()
