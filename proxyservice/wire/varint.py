"""Numbers as protobuf writes them: seven bits a byte, the lowest first."""

from __future__ import annotations

from typing import Final

_ONE_BYTE: Final = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """Return the shortest encoding of a number that is not negative."""
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
