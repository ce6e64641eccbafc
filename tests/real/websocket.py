"""As much of RFC 6455 as an echo over a long-lived connection needs."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import socketserver
import struct
from typing import Any, BinaryIO

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def accept_of(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def write_frame(file: BinaryIO, opcode: int, payload: bytes, *, masked: bool) -> None:
    length = len(payload)
    head = bytes((0x80 | opcode,))
    flag = 0x80 if masked else 0
    if length < 126:
        head += bytes((flag | length,))
    elif length < 1 << 16:
        head += bytes((flag | 126,)) + struct.pack(">H", length)
    else:
        head += bytes((flag | 127,)) + struct.pack(">Q", length)
    if masked:
        mask = os.urandom(4)
        head += mask
        payload = unmask(payload, mask)
    file.write(head + payload)
    file.flush()


def unmask(payload: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(
        len(payload), "big"
    )


def read_frame(file: BinaryIO) -> tuple[int, bytes]:
    first, second = file.read(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", file.read(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", file.read(8))
    mask = file.read(4) if second & 0x80 else b""
    payload = file.read(length)
    return first & 0xF, unmask(payload, mask) if mask else payload


def read_head(file: BinaryIO) -> dict[bytes, bytes]:
    """The lines of a request or an answer, after the first, by lower-case name."""
    file.readline()
    fields = {}
    while (line := file.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    return fields


class EchoHandler(socketserver.StreamRequestHandler):
    """Echoes text, answers pings, and sends a ping of its own first."""

    def handle(self) -> None:
        key = read_head(self.rfile)[b"sec-websocket-key"]  # type: ignore[arg-type]
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_of(key) + b"\r\n\r\n"
        )
        self._say(PING, b"are you there")
        while True:
            opcode, payload = read_frame(self.rfile)  # type: ignore[arg-type]
            if opcode in (TEXT, CLOSE):
                self._say(opcode, payload)
            if opcode == PING:
                self._say(PONG, payload)
            if opcode == CLOSE:
                return

    def _say(self, opcode: int, payload: bytes) -> None:
        write_frame(self.wfile, opcode, payload, masked=False)  # type: ignore[arg-type]


class Client:
    """A connected WebSocket client."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=15)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in: Any = self._socket.makefile("rb")
        self._out: Any = self._socket.makefile("wb")
        key = base64.b64encode(os.urandom(16))
        self._out.write(
            b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
        )
        self._out.flush()
        assert read_head(self._in)[b"sec-websocket-accept"] == accept_of(key)

    def say(self, opcode: int, payload: bytes) -> None:
        write_frame(self._out, opcode, payload, masked=True)

    def hear(self) -> tuple[int, bytes]:
        return read_frame(self._in)

    def close(self) -> None:
        for one in (self._in, self._out, self._socket):
            one.close()
