"""A peer's protobuf, read with one verdict whichever implementation of protobuf there is.

The compiled one decides what is a message. The one in plain Python, which PyPy
has, overlooks a field whose tag is longer than need be, so that a forbidden
opcode could hide there, and differs on lengths, groups and text that is not
UTF-8. It is given only what it reads alike: the fields it knows, as it would
have written them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.varint import varint

OVERLOOKS_LONG_TAGS: Final = not pb.Message.FromString(b"\xb8\x00\x01").opcode
"""The plain implementation is in use: it did not see opcode 1 behind a tag of two bytes."""

_VARINT, _FIXED64, _SIZED, _GROUP, _GROUP_END, _FIXED32 = range(6)
_TAG_BYTES: Final = 5  # longest encoding of a tag, and of a size
_VALUE_BYTES: Final = 10
_FIXED_BYTES: Final = {_FIXED64: 8, _FIXED32: 4}
_TAG_LIMIT: Final = 1 << 32
_DEPTH: Final = 100
"""Levels of groups and messages in each other that the compiled implementation reads."""

_WIRE_TYPES: Final = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_STRING: _SIZED,
    FieldDescriptor.TYPE_BYTES: _SIZED,
    FieldDescriptor.TYPE_MESSAGE: _SIZED,
}
"""Those of the field types in proto/ that are not varints."""

AnyMessage = TypeVar("AnyMessage", bound=Message)


def parse(kind: type[AnyMessage], body: bytes | memoryview) -> AnyMessage:
    """Read a whole message of that kind. Raises FrameError for whatever is none."""
    try:
        if OVERLOOKS_LONG_TAGS:
            body = plainly_encoded(cast("Descriptor", kind.DESCRIPTOR), bytes(body))
        return kind.FromString(body)  # type: ignore[arg-type]  # it takes any buffer
    except (DecodeError, UnicodeError):
        raise FrameError(f"what should be a {kind.DESCRIPTOR.name} does not parse") from None


def plainly_encoded(kind: Descriptor, body: bytes, depth: int = _DEPTH) -> bytes:
    """Copy the known fields, in their order, each tag and length in its shortest encoding.

    Raises FrameError where the compiled implementation finds the wire format
    corrupt, UnicodeError where it finds text that is not UTF-8.
    """
    known = _known_fields(kind)
    kept = []
    pos = 0
    while pos < len(body):
        tag, pos = _number(body, pos, _TAG_BYTES)
        start, pos = _skip(body, pos, tag, depth)
        if tag >> 3 == 0:
            raise FrameError("a field of number 0")
        if tag not in known:
            continue
        content, field = body[start:pos], known[tag]
        if field.message_type is not None:
            content = plainly_encoded(field.message_type, content, depth - 1)
        elif field.type == FieldDescriptor.TYPE_STRING:
            content.decode().encode()  # PyPy reads half a surrogate pair, but does not write it
        kept.append(varint(tag))
        if tag & 7 == _SIZED:
            kept.append(varint(len(content)))
        kept.append(content)
    return b"".join(kept)


@lru_cache(maxsize=64)
def _known_fields(kind: Descriptor) -> Mapping[int, FieldDescriptor]:
    """A message's fields by their tags."""
    return {
        field.number << 3 | _WIRE_TYPES.get(field.type, _VARINT): field for field in kind.fields
    }


def _skip(body: bytes, pos: int, tag: int, depth: int) -> tuple[int, int]:
    """Return where the content of the field behind this tag starts and ends."""
    wire_type = tag & 7
    if wire_type == _GROUP:
        return pos, _skip_group(body, pos, tag, depth)
    if wire_type == _VARINT:
        return pos, _number(body, pos, _VALUE_BYTES)[1]
    size = _FIXED_BYTES.get(wire_type)
    if wire_type == _SIZED:
        size, pos = _number(body, pos, _TAG_BYTES)
    if size is None or size > len(body) - pos:
        raise FrameError(f"a field of wire type {wire_type} that is not whole")
    return pos, pos + size


def _skip_group(body: bytes, pos: int, tag: int, depth: int) -> int:
    """Return where an unknown group ends, whatever is in it; groups may stand in each other."""
    open_groups = [tag]
    while open_groups:
        if len(open_groups) > depth:
            raise FrameError(f"more than {_DEPTH} levels of groups")
        tag, pos = _number(body, pos, _TAG_BYTES)
        if tag & 7 == _GROUP:
            open_groups.append(tag)
        elif tag & 7 != _GROUP_END:
            _, pos = _skip(body, pos, tag, depth)
        elif tag >> 3 != open_groups.pop() >> 3:
            raise FrameError("the end of another group")
    return pos


def _number(body: bytes, start: int, most_bytes: int) -> tuple[int, int]:
    """Return a varint in any encoding of up to so many bytes, and the offset after it."""
    value = shift = 0
    for pos in range(start, min(start + most_bytes, len(body))):
        value |= (body[pos] & 0x7F) << shift
        shift += 7
        if body[pos] < 0x80:
            if most_bytes == _TAG_BYTES and value >= _TAG_LIMIT:
                break
            return value, pos + 1
    raise FrameError("a number that is cut off or too long")
