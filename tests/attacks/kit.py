"""The attacker's kit, and the good node and visitor that must not notice.

Sockets are plain and frames are made by hand or with the project's encoder;
nothing here looks into the service. Every function is bounded in count and time.
"""

from __future__ import annotations

import select
import socket
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from random import Random
from threading import Event
from types import TracebackType
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.wire import lzw
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, HEADER, HEADER_BYTES, encode_frame
from proxyservice.wire.identity import connection_id, node_id
from proxyservice.wire.proof import NO_BINDING, proof_input, sign_proof
from tests.attacks.running import RunningService
from tests.conftest import VECTORS

NET = DEFAULT_NETWORK_ID
SMALL_ORDER_KEYS = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    *(bytes((low,)) + b"\xff" * 30 + b"\x7f" for low in (0xEC, 0xED, 0xEE)),
]


class Reachable(Protocol):
    """A service, however it was started."""

    def connect(self, port: int = 0, *, source: str = "") -> socket.socket:
        """A connection to its main port, or to another; `source` is one of 127.0.0.0/8."""


# ---------------------------------------------------------------- what nodes say


def sender(number: int) -> pb.ID:
    """The claimed identity of a node with this number."""
    key = number.to_bytes(32, "big")
    return pb.ID(net_key=key, address=f"tcp://127.0.0.1:{1 + number % 65535}", connection_id=key)


def proxy_request(number: int, origin: str = "") -> bytes:
    payload = pb.ProxyRequest(origin_address=origin)
    return encode_message(NET, Opcode.PROXY_REQUEST, payload, sender=sender(number))


def keepalive(number: int) -> bytes:
    return encode_message(NET, Opcode.KEEPALIVE, sender=sender(number))


def application_frame(payload: bytes, number: int = 0, opcode: int = 1000) -> bytes:
    return encode_message(NET, opcode, payload, sender=sender(number))


def receive(peer: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer when the peer closes."""
    data = bytearray()
    while len(data) < size and (more := peer.recv(size - len(data))):
        data += more
    return bytes(data)


def receive_message(peer: socket.socket) -> pb.Message:
    """The next one. Raises ConnectionError when the peer closes instead."""
    header = receive(peer, HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise ConnectionError("closed without a further message")
    return pb.Message.FromString(receive(peer, int.from_bytes(header[6:], "big")))


def register(service: Reachable, number: int) -> tuple[socket.socket, int]:
    """A node's main connection, and its proxy port."""
    node = service.connect()
    node.sendall(proxy_request(number))
    message = receive_message(node)
    assert message.opcode == Opcode.PROXY_RESPONSE
    address = pb.ProxyResponse.FromString(message.message).proxy_address
    return node, int(address.rpartition(":")[2])


def closed(peer: socket.socket) -> bool:
    """Whether the service closes it within the socket's timeout, having said nothing."""
    try:
        return peer.recv(1) == b""
    except (ConnectionResetError, BrokenPipeError):
        return True


def drained(peer: socket.socket) -> bool:
    """Read until the end of it; false when it does not come within the socket's timeout."""
    try:
        while peer.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def ends_unread(peer: socket.socket, seconds: float) -> bool:
    """Whether the service ends a connection from which nothing is read."""
    poller = select.poll()
    poller.register(peer, 0)  # an error or a hang-up is always told
    return bool(poller.poll(seconds * 1000))


class GoodPair:
    """A node, and a visitor of its: the ones that must not notice anything."""

    def __init__(self, service: Reachable, number: int) -> None:
        self.node, self.port = register(service, number)
        self.visitor = service.connect(self.port)
        self._number = number
        self._count = 0
        for peer in (self.node, self.visitor):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> GoodPair:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.node.close()
        self.visitor.close()

    def relay_one(self) -> float:
        """One frame through the relay and one keepalive there and back; seconds for both."""
        self._count += 1
        frame = application_frame(b"%d" % self._count, self._number)
        begun = time.monotonic()
        self.visitor.sendall(frame)
        assert receive(self.node, len(frame)) == frame, "other bytes came, or none"
        self.node.sendall(keepalive(self._number))
        assert receive_message(self.node).opcode == Opcode.KEEPALIVE_RESPONSE
        return time.monotonic() - begun

    def slowest(self, count: int) -> float:
        """The 99th percentile of so many."""
        return sorted(self.relay_one() for _ in range(count))[max(0, count * 99 // 100 - 1)]


# -------------------------------------------------------------------- bad frames


def golden_frames() -> list[bytes]:
    """Every frame of the vectors, good and bad, for TCP."""
    names = [n for n in VECTORS if n.startswith(("tcp_", "bad_")) and "udp" not in n]
    return [bytes.fromhex(VECTORS[name]["hex"]) for name in names]


def bad_frames() -> dict[str, bytes]:
    """The frames of the vectors that close whoever sends them, by name."""
    return {
        name: bytes.fromhex(entry["hex"])
        for name, entry in VECTORS.items()
        if name.startswith("bad_") and entry["inputs"]["expect"] == "close"
    }


def mutated(random: Random, frames: list[bytes]) -> bytes:
    """One or two frames with some bytes changed, removed, added or doubled, or cut short."""
    data = bytearray(b"".join(random.choices(frames, k=random.choice((1, 1, 2)))))
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data)) if data else 0
        match random.randrange(6):
            case 0:
                del data[at : at + random.choice((1, 2, 30))]
            case 1:
                data[at:at] = random.randbytes(random.choice((1, 2, 30)))
            case 2:
                data[at:at] = data[at : at + random.randrange(60)]
            case 3 if random.random() < 0.2:
                del data[at:]
            case _ if data:
                data[at % len(data)] = random.choice((random.randrange(256), 0, 0xFF, data[at] ^ 1))
    return bytes(data)


def announcement(body_bytes: int, body: bytes = b"") -> bytes:
    """A header that promises so many bytes, and the few that follow it."""
    return HEADER.pack(NET, 0, 0, body_bytes) + body


def nested_groups(depth: int) -> bytes:
    """A body of unknown groups in groups."""
    return b"\x5b" * depth + b"\x5c" * depth


def bomb(algorithm: int, inflated_bytes: int, body_limit_bytes: int = 1 << 30) -> bytes:
    """A body of zeros, compressed; cut to a limit, which leaves a stream without its end."""
    if algorithm == 4:
        return lzw.encode(bytes(min(inflated_bytes, 8 << 20)))[:body_limit_bytes]
    deflater = zlib.compressobj(9, wbits=31 if algorithm == 2 else 15)
    mebibyte = bytes(1 << 20)
    start = deflater.compress(mebibyte) + deflater.flush(zlib.Z_FULL_FLUSH)
    block = deflater.compress(mebibyte) + deflater.flush(zlib.Z_FULL_FLUSH)
    return (start + block * ((inflated_bytes >> 20) - 1))[:body_limit_bytes]


def bomb_frame(algorithm: int, inflated_bytes: int, body_limit_bytes: int) -> bytes:
    body = bomb(algorithm, inflated_bytes, body_limit_bytes)
    return encode_frame(NET, body, flag=1, algorithm=algorithm)


# ------------------------------------------------------------- bad manners on sockets


def connections(
    stack: ExitStack, service: RunningService, count: int, port: int = 0, source: str = ""
) -> list[socket.socket]:
    """So many open connections, closed with the stack."""
    return [stack.enter_context(service.connect(port, source=source)) for _ in range(count)]


def connect_again_and_again(
    service: RunningService, source: str, per_second: float, until: Event
) -> int:
    """Connect and close at once, at this pace; return how often it was."""
    begun, count = time.monotonic(), 0
    while not until.is_set():
        with suppress(OSError):
            service.connect(source=source).close()
        count += 1
        ahead = begun + count / per_second - time.monotonic()
        if ahead > 0:
            until.wait(ahead)
    return count


def flood(peer: socket.socket, data: bytes, total: int) -> int:
    """Send `data` again and again without reading; how many bytes the peer took before it stopped.

    Stops at `total` bytes, when the connection ends, or when nothing moves for
    half a second.
    """
    peer.setblocking(False)
    sent = 0
    view = memoryview(data * max(1, (1 << 16) // len(data)))
    while sent < total:
        _, writable, _ = select.select([], [peer], [], 0.5)
        if not writable:
            break
        try:
            sent += peer.send(view[sent % len(view) :][: total - sent])
        except BlockingIOError:
            continue
        except OSError:
            break
    peer.setblocking(True)
    peer.settimeout(10.0)
    return sent


def drip(peers: Iterable[socket.socket], data: bytes, seconds: int) -> Iterator[int]:
    """Send each peer a byte a second; after each second, how many are still open."""
    left = {peer.fileno(): peer for peer in peers}
    poller = select.poll()
    for descriptor in left:
        poller.register(descriptor, select.POLLIN)
    for at in range(seconds):
        begun = time.monotonic()
        for peer in left.values():
            with suppress(OSError):
                peer.send(data[at % len(data) :][:1])
        while (rest := begun + 1 - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(rest * 1000):
                if closed(left[descriptor]):
                    poller.unregister(descriptor)
                    del left[descriptor]
        yield len(left)


# ------------------------------------------------------------------ other people's names


class ProvedNode:
    """A node that proves its key on a plain socket, and what an onlooker records of it."""

    def __init__(
        self,
        service: Reachable,
        key: Ed25519PrivateKey,
        *,
        streams: bool = False,
        source: str = "",
        granted: bool = True,
        asks: bool = True,
    ) -> None:
        self.key = key
        net_key = key.public_key().public_bytes_raw()
        self.sender = pb.ID(
            net_key=net_key,
            address="tcp://127.0.0.1:9",
            id=node_id(net_key),
            connection_id=connection_id(net_key, "tcp://127.0.0.1:9"),
        )
        self.connection = service.connect(source=source)
        hello = pb.Hello(version=1, client_nonce=bytes(range(32)), initial_window=1 << 18)
        hello.features = streams << pb.FEATURE_STREAMS
        hello_frame = encode_message(NET, Opcode.HELLO, hello, sender=self.sender)
        self.connection.sendall(hello_frame)
        challenge = self._challenge(hello_frame[HEADER_BYTES:])
        proof = pb.Proof(signature=sign_proof(key, challenge))
        proof_frame = encode_message(NET, Opcode.PROOF, proof, sender=self.sender)
        request = self._request("", 1, pb.MODE_STREAMS if streams else pb.MODE_MESSAGES)
        self.connection.sendall(proof_frame + request * asks)
        assert receive_message(self.connection).opcode == Opcode.WELCOME
        self.recorded = (hello_frame, proof_frame, request)
        if granted and asks:  # else it may have to wait for that
            response = pb.ProxyResponse.FromString(receive_message(self.connection).message)
            self.port = int(response.proxy_address.rpartition(":")[2])

    def _request(self, origin: str, nonce: int, mode: pb.Mode = pb.MODE_STREAMS) -> bytes:
        payload = pb.ProxyRequest(origin_address=origin, mode=mode)
        return encode_message(
            NET, Opcode.PROXY_REQUEST, payload, sender=self.sender, request_nonce=nonce
        )

    def ask(self, origin: str, nonce: int) -> pb.Message:
        """Ask for one more lease, with streams; what is answered."""
        self.connection.sendall(self._request(origin, nonce))
        return receive_message(self.connection)

    def _challenge(self, hello_body: bytes) -> bytes:
        header = receive(self.connection, HEADER_BYTES)
        body = receive(self.connection, int.from_bytes(header[6:], "big"))
        said = pb.Challenge.FromString(pb.Message.FromString(body).message)
        return proof_input(
            NET, said.relay_id, said.binding_type, NO_BINDING, said.server_nonce,
            bytes(range(32)), self.sender.net_key, hello_body, body,
        )  # fmt: skip

    def hears(self, frame: bytes) -> bool:
        return receive(self.connection, len(frame)) == frame


def stolen_names(victim: ProvedNode) -> Iterator[bytes]:
    """Everything to say with what everybody may know of a node, its recorded frames included."""
    hello, proof, request = victim.recorded
    yield request
    yield hello + proof + request
    yield hello + request
    yield proof + request
    signature = b"\x01" + bytes(63)
    for signed in (b"", signature):
        yield encode_message(
            NET, Opcode.PROXY_REQUEST, pb.ProxyRequest(), sender=victim.sender, signature=signed
        )
    release = pb.Release()
    yield encode_message(NET, Opcode.RELEASE, release, sender=victim.sender, request_nonce=1)
    forged = encode_message(
        NET, Opcode.PROOF, pb.Proof(signature=signature), sender=victim.sender
    )  # fmt: skip
    yield hello + forged + request


def small_order_hellos() -> Iterator[bytes]:
    """A handshake under each key for which anybody can sign; the proof verifies, naively."""
    for low in SMALL_ORDER_KEYS:
        for top in (0, 0x80):
            key = low[:-1] + bytes((low[-1] | top,))
            who = pb.ID(net_key=key, address="tcp://h:1")
            hello = pb.Hello(version=1, client_nonce=bytes(32), initial_window=1 << 18)
            proof = pb.Proof(signature=b"\x01" + bytes(63))
            yield b"".join(
                encode_message(NET, opcode, said, sender=who)
                for opcode, said in ((Opcode.HELLO, hello), (Opcode.PROOF, proof))
            )
