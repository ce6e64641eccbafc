"""The service without sockets: nodes and visitors are joined to it in memory, the clock is held."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message as ProtoMessage
from twisted.internet.protocol import Protocol

from proxyservice.leases.lease import BOUND_STATES, LeaseTimes
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.net.deadlines import Deadlines
from proxyservice.server.factory import MainFactory
from proxyservice.server.limits import ServiceLimits
from proxyservice.server.main import MainConnection
from proxyservice.server.settings import ServiceSettings
from proxyservice.server.waiting_room import WaitedPorts, WaitingRoom
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import PAYLOADS, Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, HEADER_BYTES
from proxyservice.wire.identity import connection_id, node_id
from proxyservice.wire.proof import NO_BINDING, proof_input, sign_proof
from proxyservice.wire.stream_frames import stream_control_frame, stream_data_prefix
from tests.leases.harness import Disk, Run
from tests.node.joined import End, Joined

NET = DEFAULT_NETWORK_ID
RELAY_ID = bytes(range(0xE0, 0x100))
ALL_FEATURES = 1 << pb.FEATURE_STREAMS | 1 << pb.FEATURE_RELEASE
WINDOW = 256 * 1024


class Said(NamedTuple):
    """One frame that the server sent."""

    message: pb.Message
    payload: Any
    raw: bytes

    @property
    def opcode(self) -> int:
        return self.message.opcode


def cut(data: bytes) -> Iterator[bytes]:
    """Whole frames, by their headers alone."""
    while data:
        (size,) = struct.unpack_from(">I", data, 6)
        yield data[: HEADER_BYTES + size]
        data = data[HEADER_BYTES + size :]


MADE: list[MemoryRelay] = []
"""By the present test; `tests/server/conftest.py` looks at them after it."""


class MemoryRelay:
    """One service; `store` and `clock` are the test's."""

    def __init__(
        self,
        ports: range = range(20000, 20004),
        relay_id: bytes = RELAY_ID,
        times: LeaseTimes | None = None,
        join: type[Joined] = Joined,
        kernel_bytes: int = 1 << 20,
        chunk_bytes: int = 1 << 16,
        **settings: Any,
    ) -> None:
        self._join, self._kernel_bytes, self._chunk_bytes = join, kernel_bytes, chunk_bytes
        times = times or LeaseTimes()
        limits: ServiceLimits = settings.get("limits") or ServiceLimits()
        self.room = WaitingRoom(limits.waiting_visitors, limits.waiting_per_lease)
        self.run = Run(Disk(), ports, times=times, registry_class=self._registry)
        self.clock = self.run.clock
        self.deadlines = Deadlines()
        self.settings = ServiceSettings(
            network_id=NET, relay_id=relay_id, public_host="127.0.0.1", times=times, **settings
        )
        self.factory = MainFactory(
            self.run.registry, self.deadlines, self.clock.seconds, self.settings, self.room
        )
        self.pairs: list[Joined] = []
        self._visitors = 0
        MADE.append(self)

    def _registry(
        self, clock: Any, store: Any, ports: range, times: LeaseTimes, sockets: Any, **options: Any
    ) -> LeaseRegistry:
        return LeaseRegistry(clock, store, ports, times, WaitedPorts(sockets, self.room), **options)

    def node(self, seed: int | bytes = 1, *, source: str = "127.0.0.1", **options: Any) -> RawNode:
        """A connected node with a key made from this number."""
        node = RawNode(self, seed, **options)
        self.connect(node, source=source)
        return node

    def connect(self, node: Any, **options: Any) -> Joined:
        """A main connection for this protocol; `source` is where it comes from."""
        return self._joined(node, self.factory.buildProtocol(None), **options)

    def _joined(self, client: Any, server: Any, **options: Any) -> Joined:
        pair = self._join(client, server, self._kernel_bytes, **options)
        self.pairs.append(pair)
        return pair

    def visit(
        self, port: int, visitor: RawVisitor | None = None, host: str = "192.0.2.9"
    ) -> RawVisitor | None:
        """A connected visitor; None when it was turned away."""
        found = self.run.registry.visited(port)
        if found is None:
            return None
        self._visitors += 1
        lease, holder = found
        accept: Any = self.factory.waiting_visitor
        if holder is not None:
            accept = cast("Any", holder).visitor_arrived
        protocol = accept(lease, host, 40000 + self._visitors)
        if protocol is None:
            return None
        visitor = visitor or RawVisitor()
        self._joined(visitor, protocol)
        self.pump()
        return visitor

    def pump(self) -> None:
        """Move all bytes, each pair some at a time."""
        while sum(pair.step(self._chunk_bytes) for pair in self.pairs):
            pass

    def check(self) -> None:
        """What must hold at any moment, whatever has been asked of it."""
        registry, factory, bound = self.run.registry, self.factory, self.run.sockets.bound
        counts = registry.counts()
        assert sum(counts.values()) == len(registry._ports), counts
        assert bound == {one.port for one in registry._table if one.state in BOUND_STATES}
        assert factory.visitors == sum(one.leases.visitors for one in factory.connections)
        assert factory.memory.held_bytes == factory.memory.recount()
        assert factory._promised <= factory.connections

    def all_leave(self) -> None:
        """Every connection ends, and nothing of it stays."""
        self.check()
        for pair in self.pairs:
            pair.client.abortConnection()
        self.check()
        factory = self.factory
        left = {
            "main connections": len(factory.connections),
            "visitors": factory.visitors,
            "visitors by source": len(factory.gate._open_of),
            "waiting": factory.waiting_room.count,
            "waiting for a port": len(factory.port_queue),
            "strangers": len(factory._strangers),
            "sources": len(factory._strangers._sources),
            "bytes": factory.memory.held_bytes,
            "deadlines": sum(isinstance(one, MainConnection) for one in self.deadlines._due),
        }
        assert not any(left.values()), left

    def pass_time(self, seconds: float, step: float = 0.25) -> None:
        """The clock, and the service's tick."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.deadlines.tick(self.clock.seconds())
            self.pump()


class RawVisitor(Protocol):
    """Collects what it gets."""

    transport: Any

    def __init__(self) -> None:
        self.got = b""
        self.lost: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason.value


class RawNode(Protocol):
    """The far end of a main connection, which says what the test tells it to."""

    transport: End

    def __init__(
        self, relay: MemoryRelay, seed: int | bytes, address: str = "tcp://127.0.0.1:9"
    ) -> None:
        self.relay = relay
        seed = seed if isinstance(seed, bytes) else seed.to_bytes(32, "big")
        self.key = Ed25519PrivateKey.from_private_bytes(seed)
        net_key = self.key.public_key().public_bytes_raw()
        self.sender = pb.ID(
            net_key=net_key,
            address=address,
            id=node_id(net_key),
            connection_id=connection_id(net_key, address),
        )
        self.client_nonce = bytes(range(32))
        self.hello_body = b""
        self.sent: list[bytes] = []
        self._got = b""
        self._taken = 0
        self.lost: Any = None
        self._message_nonce = 0

    def dataReceived(self, data: bytes) -> None:
        self._got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason.value

    # ------------------------------------------------------------- what it says

    def write(self, raw: bytes) -> None:
        self.sent.append(raw)
        self.transport.write(raw)
        self.relay.pump()

    def frame(self, opcode: int, payload: ProtoMessage | bytes = b"", nonce: int = 0) -> bytes:
        self._message_nonce += 1
        return encode_message(
            NET, opcode, payload, sender=self.sender, request_nonce=nonce,
            message_nonce=self._message_nonce,
        )  # fmt: skip

    def say(self, opcode: int, payload: ProtoMessage | bytes = b"", nonce: int = 0) -> None:
        self.write(self.frame(opcode, payload, nonce))

    def hello(self, **fields: Any) -> None:
        said = {
            "version": 1, "features": ALL_FEATURES, "client_nonce": self.client_nonce,
            "initial_window": WINDOW,
        }  # fmt: skip
        frame = self.frame(Opcode.HELLO, pb.Hello(**{**said, **fields}))
        self.hello_body = frame[HEADER_BYTES:]
        self.write(frame)

    def signed(self, challenge: Said, **changed: Any) -> bytes:
        """What a Proof that answers this Challenge covers, but for what is changed."""
        parts: dict[str, Any] = {
            "network_id": NET,
            "relay_id": challenge.payload.relay_id,
            "binding_type": 0,
            "binding": NO_BINDING,
            "server_nonce": challenge.payload.server_nonce,
            "client_nonce": self.client_nonce,
            "net_key": self.sender.net_key,
            "hello_body": self.hello_body,
            "challenge_body": challenge.raw[HEADER_BYTES:],
        }
        return proof_input(**{**parts, **changed})

    def proof(self, challenge: Said, **changed: Any) -> pb.Proof:
        """The Proof."""
        return pb.Proof(signature=sign_proof(self.key, self.signed(challenge, **changed)))

    def prove(self) -> Said:
        """The whole handshake; returns the Welcome."""
        self.hello()
        self.say(Opcode.PROOF, self.proof(self.take(Opcode.CHALLENGE)))
        return self.take(Opcode.WELCOME)

    def ask(self, origin: str = "", *, nonce: int = 1, mode: int = 1, **fields: Any) -> None:
        request = pb.ProxyRequest(origin_address=origin, mode=mode, **fields)  # type: ignore[arg-type]
        self.say(Opcode.PROXY_REQUEST, request, nonce)

    def lease(self, origin: str = "", **options: Any) -> int:
        """Ask, and return the port."""
        self.ask(origin, **options)
        return int(self.take(Opcode.PROXY_RESPONSE).payload.proxy_address.rpartition(":")[2])

    def stream_data(self, stream_id: int, data: bytes) -> None:
        self.write(stream_data_prefix(NET, stream_id, len(data)) + data)

    def stream_say(self, opcode: int, stream_id: int, payload: ProtoMessage | bytes = b"") -> None:
        raw = payload if isinstance(payload, bytes) else payload.SerializeToString()
        self.write(stream_control_frame(NET, opcode, stream_id, raw))

    # ------------------------------------------------------------ what it hears

    def heard(self) -> list[Said]:
        """What came and was not taken yet, in order."""
        frames, self._got = list(cut(self._got)), b""
        return [self._said(raw) for raw in frames]

    def _said(self, raw: bytes) -> Said:
        message = pb.Message.FromString(raw[HEADER_BYTES:])
        kind = PAYLOADS.get(message.opcode)
        payload = message.message if kind is None else kind.FromString(message.message)
        return Said(message, payload, raw)

    def take(self, opcode: int) -> Said:
        """The one frame that came since, which must be of this opcode."""
        said = self.heard()
        assert [one.opcode for one in said] == [opcode], said
        return said[0]

    def refused(self) -> tuple[int, int]:
        """The one Refusal that came since: code and request_nonce."""
        said = self.take(Opcode.REFUSAL)
        assert said.payload.reason
        return said.payload.code, said.message.request_nonce
