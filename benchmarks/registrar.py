"""Many nodes on plain sockets: part A of docs/protocol.md, and nothing more.

Registers any number of nodes (a distinct net_key and connection_id each) and
sends their keepalives, cheaply enough that the server is what is measured. Its
protobuf is written by hand and knows nothing of the project's code.
"""

from __future__ import annotations

import hashlib
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from benchmarks.processes import BenchmarkError

NETWORK_ID = 1564141146
HEADER = struct.Struct(">IBBI")
KEEPALIVE, KEEPALIVE_RESPONSE, PROXY_RESPONSE, PROXY_REQUEST = 2, 3, 9, 15
# Handshakes under way at once: below the server's cap on connections without
# identity (400), so that nobody is turned away.
IN_FLIGHT = 200
READ_BYTES = 65536


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _number_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _frame(opcode: int, identity: bytes, nonce: int) -> bytes:
    """Build a whole frame: header, then a `Message` with sender, nonce, opcode and network id."""
    body = _bytes_field(2, identity) + _number_field(5, nonce)
    body += _number_field(7, opcode) + _number_field(8, NETWORK_ID)
    return HEADER.pack(NETWORK_ID, 0, 2, len(body)) + body


def _opcode(body: memoryview) -> int:
    """Field 7 of a `Message`, walking its top-level fields."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = body[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(body):
        key, value = number(), number()
        if key & 7 == 2:
            place += value
        elif key >> 3 == 7:
            return value
    return 0


@dataclass
class Node:
    """One registered node: its socket, its two frames, and what came so far."""

    index: int
    request: bytes = b""
    keepalive: bytes = b""
    socket: socket.socket = field(default_factory=socket.socket)
    received: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        net_key = hashlib.blake2b(b"benchmark node %d" % self.index, digest_size=32).digest()
        address = f"tcp://198.18.0.3:{1024 + self.index % 60000}".encode()
        connection_id = hashlib.blake2b(net_key + address, digest_size=32).digest()
        node_id = hashlib.blake2b(net_key, digest_size=32).digest()
        identity = _bytes_field(1, net_key) + _bytes_field(2, address)
        identity += _bytes_field(3, node_id) + _bytes_field(4, connection_id)
        self.request = _frame(PROXY_REQUEST, identity, 1)
        self.keepalive = _frame(KEEPALIVE, identity, 2)

    def opcodes(self) -> list[int]:
        """Read what is there; the opcodes of the frames that are complete now."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise BenchmarkError(f"the server closed the connection of node {self.index}")
        self.received += data
        found = []
        while len(self.received) >= HEADER.size:
            length = HEADER.unpack_from(self.received)[3]
            if len(self.received) < HEADER.size + length:
                break
            found.append(
                _opcode(memoryview(bytes(self.received[HEADER.size : HEADER.size + length])))
            )
            del self.received[: HEADER.size + length]
        return found


class Registrar:
    """Holds the sockets of all its nodes until `close`."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self.nodes: list[Node] = []

    def register(self, count: int, seconds: float) -> float:
        """Register `count` more nodes; seconds from the first connect to the last answer."""
        first = len(self.nodes)
        fresh = [Node(first + number) for number in range(count)]
        self.nodes.extend(fresh)
        return _converse(fresh, self._ask, PROXY_RESPONSE, seconds)

    def keepalive(self, seconds: float) -> float:
        """Send one Keepalive for each node; seconds until the last answer."""
        return _converse(
            self.nodes, lambda n: n.socket.sendall(n.keepalive), KEEPALIVE_RESPONSE, seconds
        )

    def close(self) -> None:
        for node in self.nodes:
            node.socket.close()
        self.nodes.clear()

    def _ask(self, node: Node) -> None:
        node.socket.connect(self._server)
        node.socket.sendall(node.request)


def _converse(
    nodes: Iterable[Node], ask: Callable[[Node], None], answer: int, seconds: float
) -> float:
    """Ask for each node, IN_FLIGHT at once, and wait for each answer."""
    waiting, todo = 0, iter(nodes)
    start = time.monotonic()
    with selectors.EpollSelector() as selector:
        exhausted = False
        while waiting or not exhausted:
            while waiting < IN_FLIGHT and not exhausted:
                node = next(todo, None)
                if node is None:
                    exhausted = True
                    break
                ask(node)
                selector.register(node.socket, selectors.EVENT_READ, node)
                waiting += 1
            for key, _ in selector.select(1.0):
                if answer in key.data.opcodes():
                    selector.unregister(key.fileobj)
                    waiting -= 1
            if time.monotonic() - start > seconds:
                raise BenchmarkError(f"{waiting} nodes had no answer after {seconds:g} s")
    return time.monotonic() - start
