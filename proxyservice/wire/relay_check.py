"""What a visitor may send through a proxy port, checked without re-encoding.

`RelayScanner` cuts a visitor's bytes into frames and yields *runs*: slices of
contiguous good frames, to be relayed as they are. All frames of one read are
checked in one pass and leave as one slice; only an unfinished frame is copied.
Rules: docs/protocol.md, "Message relay".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.compression import Algorithm, decompress
from proxyservice.wire.framing import COMPRESSED, HEADER, HEADER_BYTES

SERVER_NET_KEYS = (b"PORTER_TCP_NETKEY", b"PORTER_UDP_NETKEY")
"""A visitor that used these could forge the server's own messages."""

FORBIDDEN_OPCODES = frozenset((0, 9, 15, *range(32, 64)))
"""The server's and the extension's; opcode 9 from a peer crashes deployed nodes."""

_ADDRESS = re.compile(r"(?:tcp|udp|kcp|quic)://(?:[^\s/:\[\]]+|\[[0-9A-Fa-f:.%\w]+\]):([0-9]{1,5})")
_KNOWN_ADDRESSES_LIMIT = 64
"""Addresses remembered as good per visitor; a visitor is one node and uses one or two."""


class RelayScanner:
    """One visitor's direction; after an error it refuses further input.

    ``inflate_check_bytes`` above 0 also inflates and checks compressed bodies
    up to that size; by default they are passed on unread.
    """

    def __init__(self, network_id: int, max_body_bytes: int, inflate_check_bytes: int = 0) -> None:
        self._network_id = network_id
        self._max_body_bytes = max_body_bytes
        self._inflate_check_bytes = inflate_check_bytes
        self._tail = bytearray()
        self._good_addresses: set[str] = set()
        self._failed = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes held of a frame that is not all here."""
        return len(self._tail)

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Yield runs of whole good frames; the views are valid until the next feed.

        Raises FrameError at the first bad frame, after those before it.
        """
        if self._failed:
            raise FrameError("bytes after a bad frame")
        view = memoryview(data)
        if self._tail:
            taken = self._grow_tail(view)
            if taken < 0:
                return
            whole, self._tail = self._tail, bytearray()
            yield from self._runs(memoryview(whole))
            view = view[taken:]
        yield from self._runs(view)

    def _grow_tail(self, view: memoryview) -> int:
        """Complete the unfinished frame; return how much it took, -1 when all was too little."""
        tail = self._tail
        taken = 0
        if len(tail) < HEADER_BYTES:
            taken = HEADER_BYTES - len(tail)
            tail += view[:taken]
            if len(tail) < HEADER_BYTES:
                return -1
        missing = HEADER_BYTES + self._header(tail, 0)[2] - len(tail)
        tail += view[taken : taken + missing]
        return taken + missing if taken + missing <= len(view) else -1

    def _runs(self, view: memoryview) -> Iterator[memoryview]:
        start = pos = 0
        end = len(view)
        failure: FrameError | None = None
        try:
            while end - pos >= HEADER_BYTES:
                flag, algorithm, body_bytes = self._header(view, pos)
                stop = pos + HEADER_BYTES + body_bytes
                if stop > end:
                    break
                self._check(flag, algorithm, view[pos + HEADER_BYTES : stop])
                pos = stop
        except FrameError as error:
            self._failed = True
            failure = error
        if pos > start:
            yield view[start:pos]
        if failure is not None:
            raise failure
        if pos < end:
            self._tail += view[pos:]

    def _header(self, view: memoryview | bytearray, pos: int) -> tuple[int, int, int]:
        network_id, flag, algorithm, body_bytes = HEADER.unpack_from(view, pos)
        if network_id != self._network_id or not 0 < body_bytes <= self._max_body_bytes:
            self._failed = True
            raise FrameError(f"network id {network_id:#010x}, body of {body_bytes} bytes")
        return flag, algorithm, body_bytes

    def _check(self, flag: int, algorithm: int, body: memoryview) -> None:
        if flag != COMPRESSED or algorithm in (Algorithm.NONE, Algorithm.BZIP2, Algorithm.FLAT):
            self._check_message(body)
            return
        _check_compressed_start(algorithm, body)
        if len(body) <= self._inflate_check_bytes:
            self._check_message(decompress(algorithm, body, self._inflate_check_bytes))

    def _check_message(self, body: bytes | memoryview) -> None:
        try:
            message = pb.Message.FromString(body)  # type: ignore[arg-type]  # upb takes any buffer
        except DecodeError:
            raise FrameError("the body is no Message") from None
        if message.opcode in FORBIDDEN_OPCODES:
            raise FrameError(f"opcode {message.opcode} is not a visitor's to send")
        if message.netID != self._network_id:
            raise FrameError("netID differs")
        sender = message.sender
        net_key = sender.net_key
        if not net_key or net_key in SERVER_NET_KEYS:
            raise FrameError("sender or net_key missing, or the server's own")
        if sender.address not in self._good_addresses:
            self._check_address(sender.address)

    def _check_address(self, address: str) -> None:
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match[1]) < 65536:
            raise FrameError("the sender's address is not scheme://host:port")
        if len(self._good_addresses) < _KNOWN_ADDRESSES_LIMIT:
            self._good_addresses.add(address)


def _check_compressed_start(algorithm: int, body: memoryview) -> None:
    """Look at the first bytes only: nothing of a visitor is inflated unasked."""
    if algorithm == Algorithm.GZIP:
        good = bytes(body[:3]) == b"\x1f\x8b\x08"
    elif algorithm == Algorithm.ZLIB:
        head = int.from_bytes(body[:2], "big")
        good = len(body) >= 2 and head % 31 == 0 and head >> 8 & 0x0F == 8 and not head & 0x20
        good = good and head >> 12 <= 7
    else:
        good = algorithm == Algorithm.LZW
    if not good:
        raise FrameError(f"the body is not compressed by algorithm {algorithm}")
