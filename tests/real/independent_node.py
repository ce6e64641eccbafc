"""A node made from docs/protocol.md alone: no line of the package, no protobuf library.

    independent_node.py HOST PORT SEED_HEX ORIGIN

proves its key, leases a proxy address, prints it, and sends every visitor's
bytes back, each direction under the credit that it has.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NETWORK_ID = 1564141146
SERVER_NET_KEY = b"PORTER_TCP_NETKEY"
WINDOW = 262144
PORTION = 65536

Value = int | bytes


# ---------------------------------------------------------------- "Body"


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes((number,))


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return number, at


def encode(fields: dict[int, Value]) -> bytes:
    out = b""
    for number, value in fields.items():
        if isinstance(value, int):
            out += varint(number * 8) + varint(value) if value else b""
        elif value:
            out += varint(number * 8 + 2) + varint(len(value)) + value
    return out


def decode(data: bytes) -> dict[int, Value]:
    fields: dict[int, Value] = {}
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        number, at = read_varint(data, at)
        if tag % 8 == 0:
            fields[tag // 8] = number
        elif tag % 8 == 2:
            fields[tag // 8] = data[at : at + number]
            at += number
        else:
            raise SystemExit(f"a field of type {tag % 8}")
    return fields


def number(fields: dict[int, Value], name: int) -> int:
    value = fields.get(name, 0)
    assert isinstance(value, int)
    return value


def data(fields: dict[int, Value], name: int) -> bytes:
    value = fields.get(name, b"")
    assert isinstance(value, bytes)
    return value


# --------------------------------------------------------------- "Streams"


class Stream:
    """Echo: what came waits until there is credit; what went is granted anew."""

    def __init__(self, credit: int, window: int) -> None:
        self.credit = credit
        self.window = window
        self.waiting = b""
        self.to_grant = 0
        self.ended = False


class Node:
    def __init__(self, host: str, port: int, key: Ed25519PrivateKey) -> None:
        self.key = key
        self.net_key = key.public_key().public_bytes_raw()
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near_host, near_port = self.socket.getsockname()[:2]
        self.sender = encode({1: self.net_key, 2: f"tcp://{near_host}:{near_port}".encode()})
        self.sent = 0
        self.buffer = b""
        self.streams: dict[int, Stream] = {}
        self.last_id = 0

    # ---------------------------------------------------------- "Frame"

    def send(self, opcode: int, message: bytes = b"", request_nonce: int = 0) -> bytes:
        self.sent += 1
        fields: dict[int, Value] = {1: message, 2: self.sender, 4: request_nonce}
        body = encode({**fields, 5: self.sent, 7: opcode, 8: NETWORK_ID})
        self.socket.sendall(struct.pack(">IBBI", NETWORK_ID, 0, 0, len(body)) + body)
        return body

    def send_stream(self, opcode: int, stream_id: int, message: bytes = b"") -> None:
        body = encode({7: opcode, 4: stream_id, 1: message})
        self.socket.sendall(struct.pack(">IBBI", NETWORK_ID, 0, 0, len(body)) + body)

    def bodies(self, keepalive_seconds: float) -> Iterator[bytes]:
        """Whole bodies, for ever; a Keepalive whenever it was quiet."""
        self.socket.settimeout(keepalive_seconds)
        while True:
            while len(self.buffer) >= 10:
                network_id, flag, _, length = struct.unpack_from(">IBBI", self.buffer)
                if network_id != NETWORK_ID or flag == 1:
                    raise SystemExit("a strange header")
                if len(self.buffer) < 10 + length:
                    break
                body = self.buffer[10 : 10 + length]
                self.buffer = self.buffer[10 + length :]
                yield body
            try:
                more = self.socket.recv(1 << 18)
            except TimeoutError:
                self.send(2)
                continue
            if not more:
                raise SystemExit("the server has closed the connection")
            self.buffer += more

    def answer(self, opcode: int) -> tuple[dict[int, Value], bytes]:
        """The next frame, which must be of this opcode: its message, and its body."""
        body = next(self.bodies(10))
        message = decode(body)
        if data(decode(data(message, 2)), 1) != SERVER_NET_KEY or number(message, 7) != opcode:
            raise SystemExit(f"{message} instead of opcode {opcode}")
        return decode(data(message, 1)), body

    # ------------------------------------------- "Handshake", "The proof"

    def begin(self, origin: str) -> tuple[str, float]:
        """Prove the key and lease an address; returns it, and the seconds between keepalives."""
        client_nonce = os.urandom(32)
        hello = self.send(32, encode({1: 1, 2: 1, 3: client_nonce, 4: WINDOW}))
        said, challenge = self.answer(33)
        relay_id, server_nonce = data(said, 3), data(said, 2)
        if number(said, 1) != 1 or number(said, 4) != 0:
            raise SystemExit("another version, or TLS")
        signed = b"proxyservice-auth-v1\0" + struct.pack(">IB", NETWORK_ID, 1) + relay_id
        signed += bytes(33) + server_nonce + client_nonce + self.net_key
        signed += hashlib.sha256(hello).digest() + hashlib.sha256(challenge).digest()
        assert len(signed) == 251
        self.send(34, encode({1: self.key.sign(signed)}))
        self.send(15, encode({1: origin.encode(), 16: 1}), request_nonce=1)
        welcome, _ = self.answer(35)
        assert number(welcome, 2) == 1, "it was to be proved"
        assert number(welcome, 1) & 1, "streams were to be agreed"
        granted, _ = self.answer(9)
        return data(granted, 2).decode(), number(welcome, 3) / 1000

    # ------------------------------------------- "Windows", "Life of a stream"

    def serve(self, keepalive_seconds: float) -> None:
        for body in self.bodies(keepalive_seconds):
            message = decode(body)
            opcode, stream_id, said = number(message, 7), number(message, 4), data(message, 1)
            if opcode == 40:
                self.opened(stream_id, decode(said))
            elif opcode in (41, 42, 43, 44) and (stream := self.streams.get(stream_id)):
                self.heard(opcode, stream_id, stream, said)

    def opened(self, stream_id: int, opening: dict[int, Value]) -> None:
        assert stream_id == self.last_id + 1
        self.last_id = stream_id
        assert 0 < number(opening, 5) <= WINDOW
        self.streams[stream_id] = Stream(number(opening, 4), number(opening, 5))

    def heard(self, opcode: int, stream_id: int, stream: Stream, said: bytes) -> None:
        if opcode == 44:
            del self.streams[stream_id]
            return
        if opcode == 41:
            stream.waiting += said
        elif opcode == 42:
            stream.credit += number(decode(said), 1)
        else:
            stream.ended = True
        while stream.waiting and stream.credit:
            portion = stream.waiting[: min(PORTION, stream.credit)]
            stream.waiting = stream.waiting[len(portion) :]
            stream.credit -= len(portion)
            stream.to_grant += len(portion)
            self.send_stream(41, stream_id, portion)
        if not stream.ended and stream.to_grant >= stream.window // 2:
            self.send_stream(42, stream_id, encode({1: stream.to_grant}))
            stream.to_grant = 0
        if stream.ended and not stream.waiting:
            self.send_stream(43, stream_id)
            del self.streams[stream_id]


def main() -> None:
    host, port, seed, origin = sys.argv[1:]
    node = Node(host, int(port), Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)))
    address, keepalive_seconds = node.begin(origin)
    print(address, flush=True)
    node.serve(keepalive_seconds)


if __name__ == "__main__":
    main()
