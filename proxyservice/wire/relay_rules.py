"""Which message a visitor may send: the rules for one body, as protobuf understands it.

Two judges that agree. `RelayRules.check` lets protobuf parse, for large bodies
without their payload. `common_ending` recognises, without parsing, what nearly
every frame of a visitor looks like behind its payload once one of them was
accepted. Knows neither frames nor connections (docs/protocol.md, "Message relay").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.parsing import OVERLOOKS_LONG_TAGS, parse
from proxyservice.wire.work import BODY_UNITS, body_units, take_any

SERVER_NET_KEYS: Final = tuple(
    b"PORTER_%b_NETKEY" % kind for kind in (b"TCP", b"UDP", b"KCP", b"QUIC")
)
"""A visitor that used these could forge the server's own messages."""

SERVER_NET_KEY: Final = SERVER_NET_KEYS[0]
"""What marks a frame as this server's own. Nodes depend on the literal: it is no key of any
chain, and the same after a restart; a relay lets no visitor say it."""

FORBIDDEN_OPCODES: Final = frozenset((0, 9, 15, *range(32, 64)))
"""The server's and the extension's; opcode 9 from a peer crashes deployed nodes."""

MESSAGE_TAG: Final = 0x0A
"""First byte of a body with a payload: field 1, length-delimited."""

_SENDER_TAG: Final = 0x12
_MESSAGE_ID_TAG: Final = 0x4A
_ADDRESS: Final = re.compile(
    r"(?:tcp|udp|kcp|quic)://(?:[^\s/:\[\]]+|\[[0-9A-Fa-f:.%\w]+\]):([0-9]{1,5})"
)

WALKED_FROM_BYTES: Final = 4096
"""Parsing a smaller body, payload and all, costs less than looking for its payload."""

_CUT_FROM_BYTES: Final = 1024
_WALKED_FIELDS: Final = range(64, 1024)
"""So many fields at least, and at most, one for each 64 bytes: then the rest is left to
protobuf, which reads tiny fields a hundred times faster, and bytes pay for the walk."""

_BYTES_OF_A_WALKED_FIELD: Final = 64

USUAL_SENDER_LIMIT_BYTES: Final = 1024
"""A deployed node's has 130. It is remembered for as long as the visitor stays."""

BESIDE_PAYLOAD_LIMIT_BYTES: Final = 128 << 10 if OVERLOOKS_LONG_TAGS else 1 << 20
"""What a message holds beside its payload: protobuf reads the most laborious in 20 ms, and the
plain implementation (PyPy) takes as long for a thirtieth of it."""


class RelayRules:
    """The rules of one network; after construction it only answers."""

    def __init__(self, network_id: int) -> None:
        self._network_id = network_id

    def check(self, body: bytes | memoryview, take: Callable[[int], bool] = take_any) -> bool:
        """Raises FrameError when this body is not a visitor's to send.

        False, and no verdict, when ``take`` does not grant the work that a body of this size is.
        """
        if len(body) >= WALKED_FROM_BYTES:
            body = without_payload(body)
            if len(body) > BESIDE_PAYLOAD_LIMIT_BYTES:
                raise FrameError(f"a Message with {len(body)} bytes beside its payload")
        if not take(BODY_UNITS + body_units(len(body))):
            return False
        message = parse(pb.Message, body)
        if message.opcode in FORBIDDEN_OPCODES:
            raise FrameError(f"opcode {message.opcode} is not a visitor's to send")
        if message.netID != self._network_id:
            raise FrameError("netID differs")
        _check_sender(message.sender)
        return True


def _check_sender(sender: pb.ID) -> None:
    if not sender.net_key or sender.net_key in SERVER_NET_KEYS:
        raise FrameError("sender or net_key missing, or the server's own")
    match = _ADDRESS.fullmatch(sender.address)
    if match is None or not 0 < int(match[1]) < 65536:
        raise FrameError("the sender's address is not scheme://host:port")


def beside_payload_bytes(body: bytes | memoryview) -> int:
    """How much of a body protobuf has to read field by field: all but its long fields."""
    return len(body if len(body) < WALKED_FROM_BYTES else without_payload(body))


def without_payload(body: bytes | memoryview) -> bytes:
    """Copy a body, leaving out long fields that no rule looks at.

    Protobuf judges the copy as it would the whole. Fields are walked as far as
    they are in the one usual encoding; from the first odd one on all is kept.
    """
    kept = []
    pos = kept_from = 0
    walked = len(body) // _BYTES_OF_A_WALKED_FIELD
    for _ in range(min(max(walked, _WALKED_FIELDS.start), _WALKED_FIELDS.stop)):
        start, content, stop = _field(body, pos)
        if not stop:
            break
        if content and stop - content >= _CUT_FROM_BYTES:
            kept.append(body[kept_from:start])
            kept_from = stop
        pos = stop
    kept.append(body[kept_from:])
    return b"".join(kept)


def _field(body: bytes | memoryview, start: int) -> tuple[int, int, int]:
    """Return where a field starts, where its content does if no rule looks at that, and its end.

    The content offset is 0 for fields to keep; the end is 0 for what is not a
    whole field in its usual encoding.
    """
    tag, pos = read_varint(body, start)
    kind = tag & 7
    if not pos or not 8 <= tag < 1 << 32:
        return start, 0, 0
    if kind == 0:
        return start, 0, read_varint(body, pos)[1]
    if kind in (1, 5):
        stop = pos + (8 if kind == 1 else 4)
        return start, 0, stop if stop <= len(body) else 0
    if kind != 2:
        return start, 0, 0
    size, content = read_varint(body, pos)
    stop = content + size
    if not content or stop > len(body):
        return start, 0, 0
    return start, 0 if tag in (_SENDER_TAG, _MESSAGE_ID_TAG) else content, stop


def read_varint(body: bytes | bytearray | memoryview, start: int) -> tuple[int, int]:
    """Return a number below 2^63 in its shortest encoding, and the offset after it, else (0, 0)."""
    value = 0
    for index, byte in enumerate(body[start : start + 9]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return (value, start + index + 1) if byte or not index else (0, 0)
    return 0, 0


def usual_sender(body: bytes | memoryview) -> bytes:
    """Return the sender field of an accepted body, tag and all, if its place is the usual one.

    Usual: first, or behind the payload. Empty when it is elsewhere, long, or
    not good on its own.
    """
    pos = 0
    if body[0] == MESSAGE_TAG:
        pos = _field(body, 0)[2]
    if body[pos : pos + 1] != bytes((_SENDER_TAG,)):
        return b""
    stop = _field(body, pos)[2]
    size, content = read_varint(body, pos + 1)
    if not stop or stop - pos > USUAL_SENDER_LIMIT_BYTES:
        return b""
    try:
        _check_sender(parse(pb.ID, bytes(body[content : content + size])))
    except FrameError:
        return b""
    return bytes(body[pos:stop])


@lru_cache(maxsize=16)
def common_ending(network_id: int) -> Callable[..., re.Match[bytes] | None]:
    """Return a `fullmatch` for what follows a good sender in a body that is to be relayed.

    In the order of their numbers, each at most once and in its shortest
    encoding: signature of 64 bytes, both nonces, reply_flag, an opcode that is
    allowed, netID, need_ack. What does not match is not bad but unusual.
    """
    one_byte = [value for value in range(1, 0x80) if value not in FORBIDDEN_OPCODES]
    opcode = rb"(?:[%b]|[\x80-\xff]{1,3}[\x01-\x7f])" % re.escape(bytes(one_byte))
    net_id = re.escape(pb.Message(netID=network_id).SerializeToString())
    number = rb"[\x80-\xff]{0,8}[\x01-\x7f]"
    return re.compile(
        rb"(?:\x1a\x40.{64})?(?:\x20%b)?(?:\x28%b)?(?:\x30\x01)?\x38%b%b(?:\x50\x01)?"
        % (number, number, opcode, net_id),
        re.DOTALL,
    ).fullmatch
