"""The six algorithms a header can name, bounded in what they produce.

NONE, BZIP2 and FLAT are identity on the deployed wire. Knows neither frames
nor messages (docs/protocol.md, "Compression").
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator
from enum import IntEnum
from typing import cast

from proxyservice.errors import FrameError
from proxyservice.wire import lzw
from proxyservice.wire.work import LZW_BYTE_UNITS, PIECE_UNITS

_GZIP_WINDOW = 31  # zlib's way to say: gzip header, 32 KiB window
_ZLIB_WINDOW = 15
_PIECE_BYTES = 4096  # zlib copies what follows an end, so a body of many ends is fed by pieces
_SLICE_BYTES = 64 * 1024  # 4 KiB can say 4 MiB: no more than this comes out at once


class Algorithm(IntEnum):
    """Second byte of the compression info in a header."""

    NONE = 0
    BZIP2 = 1
    GZIP = 2
    ZLIB = 3
    LZW = 4
    FLAT = 5


def compress(algorithm: int, body: bytes) -> bytes | memoryview:
    """Return the body as a sender of that algorithm sends it. Raises FrameError if unknown."""
    if algorithm == Algorithm.GZIP:
        return gzip.compress(body, mtime=0)
    if algorithm == Algorithm.ZLIB:
        return zlib.compress(body)
    if algorithm == Algorithm.LZW:
        return lzw.encode(body)
    return _identity(algorithm, body)


def decompress(algorithm: int, body: bytes | memoryview, limit_bytes: int) -> bytes | memoryview:
    """Return the plain body. Raises FrameError when it is damaged or over `limit_bytes`."""
    slices = decompress_slices(algorithm, body, limit_bytes)
    while True:
        try:
            next(slices)
        except StopIteration as done:
            return cast("bytes | memoryview", done.value)


def decompress_slices(
    algorithm: int, body: bytes | memoryview, limit_bytes: int
) -> Generator[int, None, bytes | memoryview]:
    """The same, a slice at a time; yields the work of each in units of `wire/work.py`."""
    if algorithm == Algorithm.GZIP:
        return (yield from _inflate(body, _GZIP_WINDOW, limit_bytes, members=True))
    if algorithm == Algorithm.ZLIB:
        return (yield from _inflate(body, _ZLIB_WINDOW, limit_bytes, members=False))
    if algorithm == Algorithm.LZW:
        return (yield from _expand(body, limit_bytes))
    return _identity(algorithm, body)


def _expand(body: bytes | memoryview, limit_bytes: int) -> Generator[int, None, bytes]:
    slices = lzw.decode_slices(body, limit_bytes)
    while True:
        try:
            looked_at_bytes = next(slices)
        except StopIteration as done:
            return cast("bytes", done.value)
        yield looked_at_bytes * LZW_BYTE_UNITS


def _identity(algorithm: int, body: bytes | memoryview) -> bytes | memoryview:
    if algorithm not in (Algorithm.NONE, Algorithm.BZIP2, Algorithm.FLAT):
        raise FrameError(f"compression algorithm {algorithm} is unknown")
    return body


def _inflate(
    body: bytes | memoryview, window: int, limit_bytes: int, *, members: bool
) -> Generator[int, None, bytes]:
    """Inflate one stream, or all concatenated gzip members as Go's reader does."""
    out = bytearray()
    view, pos = memoryview(body), 0
    while not pos or (members and pos < len(view)):
        inflater, is_full = zlib.decompressobj(window), False
        while not inflater.eof:
            piece = view[pos : pos + _PIECE_BYTES]
            if not piece and not is_full:
                raise FrameError("the compressed body is cut short")
            most_bytes = min(_SLICE_BYTES, limit_bytes + 1 - len(out))
            try:
                inflated = inflater.decompress(piece, most_bytes)
            except zlib.error:
                raise FrameError("the compressed body is damaged") from None
            out += inflated
            if len(out) > limit_bytes:
                raise FrameError(f"the compressed body holds more than {limit_bytes} bytes")
            is_full = len(inflated) == most_bytes  # zlib may have more of what it was given
            pos += len(piece) - len(inflater.unused_data) - len(inflater.unconsumed_tail)
            yield PIECE_UNITS + len(inflated)
    return bytes(out)
