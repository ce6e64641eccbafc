"""LZW: the bound holds, round trips, and the same verdicts as a second, plain implementation."""

from __future__ import annotations

from collections.abc import Iterator

from proxyservice.errors import FrameError
from proxyservice.wire import lzw
from tests.fuzz.golden import golden
from tests.fuzz.script import Script
from tests.wire.lzw_plain import straightforward_decode, straightforward_encode

REPEATED = (1, 1, 1, 2, 30)
"""Long plain texts that a short input can say: the table fills after some 4,000 bytes."""

LONGEST_BYTES = 6000


def check(data: bytes) -> None:
    script = Script(data)
    limit, times, body = script.number(2), script.choice(REPEATED), script.rest()
    assert decoded(body, limit) == within(limit, straightforward_decode(body))
    plain = (body * times)[:LONGEST_BYTES]
    stream = lzw.encode(plain)
    assert stream == straightforward_encode(plain)
    assert decoded(stream, limit) == within(limit, plain)
    assert decoded(stream + body, len(plain)) == plain
    assert decoded(stream[:-1], len(plain)) in (None, plain)


def decoded(stream: bytes, limit: int) -> bytes | None:
    try:
        return lzw.decode(stream, limit)
    except FrameError:
        return None


def within(limit: int, plain: bytes | None) -> bytes | None:
    return plain if plain is not None and len(plain) <= limit else None


def seeds() -> Iterator[bytes]:
    for stream in golden("lzw_"):
        yield b"\xff\xff\0" + stream
        yield b"\0\5\4" + stream
    yield b"\xff\xff\4" + bytes(range(256))
    yield b"\xff\xff\0" + lzw.encode(bytes(number * 7 % 256 for number in range(4200)))
