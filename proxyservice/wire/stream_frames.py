"""StreamData in its canonical form: a prefix, then the payload where it lies.

The payload is the last field of the body, so it is sent and received without
being copied into a message. Knows this one layout (docs/protocol.md,
"StreamData"), neither windows nor streams.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.header import HEADER, HEADER_BYTES
from proxyservice.wire.parsing import parse
from proxyservice.wire.varint import varint

PREFIX_ROOM: Final = 32
"""Bytes to leave free in front of a payload: header 10, opcode 2, id 11, length 6, spare 3."""

STREAM_DATA_START: Final = 0x38
"""First byte of a canonical body: the tag of Message.opcode."""

_OPCODE_AND_ID_TAG: Final = b"\x38\x29\x20"  # opcode = 41, tag of request_nonce
_MESSAGE_TAG: Final = 0x0A
_U64_LIMIT: Final = 1 << 64
_VARINT_BYTES: Final = 10  # longest encoding of 64 bits


class StreamDataPrefix(NamedTuple):
    """What stands in front of a payload; offsets count from the start of the body."""

    stream_id: int
    payload_offset: int
    payload_bytes: int


MORE: Final = StreamDataPrefix(0, 0, 0)
"""The bytes seen are the beginning of a prefix; its payload offset is not known yet."""


def stream_data_prefix(network_id: int, stream_id: int, payload_bytes: int) -> bytes:
    """Return the frame header and the body up to the payload of ``payload_bytes`` bytes."""
    start = b"%b%b\x0a%b" % (_OPCODE_AND_ID_TAG, varint(stream_id), varint(payload_bytes))
    return HEADER.pack(network_id, 0, 0, len(start) + payload_bytes) + start


def write_stream_data_prefix(
    buffer: bytearray | memoryview, end: int, network_id: int, stream_id: int, payload_bytes: int
) -> int:
    """Write the prefix so that it ends at offset ``end``; return where it starts.

    ``end`` is where the payload begins, at least ``PREFIX_ROOM``: the frame is
    then ``buffer[start : end + payload_bytes]``, in one piece.
    """
    prefix = stream_data_prefix(network_id, stream_id, payload_bytes)
    start = end - len(prefix)
    assert start >= 0, "PREFIX_ROOM bytes belong in front of a payload"
    buffer[start:end] = prefix
    return start


def parse_stream_data_prefix(body: bytes | bytearray | memoryview) -> StreamDataPrefix | None:
    """Read the prefix at the start of a body, of which only a part may be there.

    None: not canonical, whatever follows. `MORE` (payload_offset 0): no
    contradiction so far, show more bytes. That the payload ends with the body
    is for the caller to check, who knows where the body ends.
    """
    head = body if isinstance(body, bytes) else bytes(body[:PREFIX_ROOM])
    if not head.startswith(_OPCODE_AND_ID_TAG):
        return MORE if _OPCODE_AND_ID_TAG.startswith(head) else None
    found = _read_varint(head, len(_OPCODE_AND_ID_TAG))
    if found is None or not found[1]:
        return found and MORE
    stream_id, pos = found
    if pos == len(head):
        return MORE
    if head[pos] != _MESSAGE_TAG:
        return None
    found = _read_varint(head, pos + 1)
    if found is None or not found[1]:
        return found and MORE
    return StreamDataPrefix(stream_id, found[1], found[0])


def stream_control_frame(network_id: int, opcode: int, stream_id: int, payload: bytes) -> bytes:
    """Return a whole frame of opcode 41 to 44 with as little around it as allowed."""
    message = b"\x0a%b%b" % (varint(len(payload)), payload) if payload else b""
    body = b"\x38%b\x20%b%b" % (varint(opcode), varint(stream_id), message)
    return HEADER.pack(network_id, 0, 0, len(body)) + body


def is_stream_data(body: bytes | memoryview) -> bool:
    """Tell whether a whole, uncompressed body is StreamData in any order of fields."""
    try:
        return parse(pb.Message, body).opcode == pb.OPCODE_STREAM_DATA
    except FrameError:
        return False


def _read_varint(head: bytes, start: int) -> tuple[int, int] | None:
    """Return value and offset after it; offset 0 when it is cut off, None when not canonical.

    Canonical is the shortest encoding of a number below 2^64.
    """
    if start < len(head) and head[start] < 0x80:
        return head[start], start + 1
    value = 0
    for index, byte in enumerate(head[start : start + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            shortest = byte or not index
            return (value, start + index + 1) if shortest and value < _U64_LIMIT else None
    return (0, 0) if len(head) < start + _VARINT_BYTES else None


assert HEADER_BYTES + len(_OPCODE_AND_ID_TAG) + _VARINT_BYTES + 1 + 5 <= PREFIX_ROOM
