"""LZW as Go's compress/lzw has it: MSB first, 8-bit literals, late width change.

Knows the code stream (docs/protocol.md, "LZW"), not who uses it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final, cast

from proxyservice.errors import FrameError

_CLEAR: Final = 256
_EOF: Final = 257
_FIRST_WIDTH_BITS: Final = 9
_LAST_WIDTH_BITS: Final = 12
_LAST_CODE: Final = (1 << _LAST_WIDTH_BITS) - 1
_WORDY: Final = 4
"""Bytes of input for each of output: an encoder that clears before each byte needs 2.25."""

SLICE_BYTES: Final = 2048
"""What is decoded in one go: less than a millisecond's work."""

_LITERALS: Final = [bytes((byte,)) for byte in range(256)]


def encode(data: bytes) -> bytes:
    """Return the one stream that the deployed encoder makes of ``data``."""
    bits, bit_count = 0, 0
    out = bytearray()
    for code, width_bits in _codes(data):
        bits = bits << width_bits | code
        bit_count += width_bits
        while bit_count >= 8:
            bit_count -= 8
            out.append(bits >> bit_count & 0xFF)
        bits &= (1 << bit_count) - 1
    if bit_count:
        out.append(bits << (8 - bit_count) & 0xFF)
    return bytes(out)


def _codes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each code with the width it is written in."""
    known: dict[int, int] = {}  # code << 8 | next byte -> code of both
    top, width_bits = _EOF, _FIRST_WIDTH_BITS
    yield _CLEAR, width_bits
    code = -1
    for byte in data:
        pair = code << 8 | byte
        if code < 0:
            code = byte
        elif pair in known:
            code = known[pair]
        else:
            yield code, width_bits
            code = byte
            top += 1
            if top == 1 << width_bits:
                width_bits += 1
            if top == _LAST_CODE:
                yield _CLEAR, width_bits
                known.clear()
                top, width_bits = _EOF, _FIRST_WIDTH_BITS
            else:
                known[pair] = top
    if code >= 0:
        yield code, width_bits
        top += 1
        if top == 1 << width_bits:
            width_bits += 1
        if top == _LAST_CODE:
            yield _CLEAR, width_bits
            width_bits = _FIRST_WIDTH_BITS
    yield _EOF, width_bits


def decode(data: bytes | memoryview, limit_bytes: int) -> bytes:
    """Return the plain bytes; what follows the end code is ignored.

    Raises FrameError for a code that means nothing, a stream without its end,
    one that says next to nothing, and an output of more than ``limit_bytes``,
    of which no more is made.
    """
    slices = decode_slices(data, limit_bytes)
    while True:
        try:
            next(slices)
        except StopIteration as done:
            return cast("bytes", done.value)


def decode_slices(data: bytes | memoryview, limit_bytes: int) -> Generator[int, None, bytes]:
    """The same, a slice of the input at a time; yields how many bytes were looked at.

    To look at one takes 0.3 us: whoever has others to serve serves them in between.
    """
    out = bytearray()
    table = [*_LITERALS, b"", b""]
    width_bits = _FIRST_WIDTH_BITS
    top = _EOF  # the entry that the next code completes
    last = b""  # what the code before meant; empty after CLEAR and in a frozen table
    bits, bit_count = 0, 0
    for start in range(0, len(data), SLICE_BYTES):
        if start > SLICE_BYTES + _WORDY * len(out):
            raise FrameError("an LZW stream that says next to nothing")
        for byte in data[start : start + SLICE_BYTES]:
            bits = bits << 8 | byte
            bit_count += 8
            if bit_count < width_bits:
                continue
            bit_count -= width_bits
            code = bits >> bit_count
            bits &= (1 << bit_count) - 1
            if code == _EOF:
                return bytes(out)
            if code == _CLEAR:
                if width_bits > _FIRST_WIDTH_BITS or top > _EOF or last:
                    table = [*_LITERALS, b"", b""]
                    width_bits, top, last = _FIRST_WIDTH_BITS, _EOF, b""
                continue
            meaning = _meaning(table, code, last)
            out += meaning
            if len(out) > limit_bytes:
                raise FrameError(f"the compressed body holds more than {limit_bytes} bytes")
            if last:
                table.append(last + meaning[:1])
            last, top = meaning, top + 1
            if top == 1 << width_bits:
                if width_bits == _LAST_WIDTH_BITS:
                    last, top = b"", top - 1
                else:
                    width_bits += 1
        yield min(SLICE_BYTES, len(data) - start)
    raise FrameError("an LZW stream without its end")


def _meaning(table: list[bytes], code: int, last: bytes) -> bytes:
    """Expand a code; the one past the table is the pair that it completes itself."""
    if code < len(table):
        return table[code]
    if code == len(table) and last:
        return last + last[:1]
    raise FrameError("an LZW code beyond the table")
