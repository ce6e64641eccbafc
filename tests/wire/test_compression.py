"""The six algorithms, with bombs, damage and everything that follows the end."""

from __future__ import annotations

import gzip
import zlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.errors import FrameError
from proxyservice.wire import lzw
from proxyservice.wire.compression import compress, decompress
from tests.traced import traced_memory

INFLATED = 256 * 1024
COMPRESSING = {2: "gzip", 3: "zlib", 4: "lzw"}


@given(st.binary(max_size=3000), st.integers(0, 5))
def test_what_was_compressed_comes_back(plain: bytes, algorithm: int) -> None:
    body = compress(algorithm, plain)
    assert bytes(decompress(algorithm, body, len(plain))) == plain
    assert bytes(decompress(algorithm, memoryview(bytes(body)), 10_000)) == plain
    if algorithm not in COMPRESSING:
        assert bytes(body) == plain


@pytest.mark.parametrize("algorithm", [6, 7, 255])
def test_others_are_unknown(algorithm: int) -> None:
    with pytest.raises(FrameError):
        compress(algorithm, b"")
    with pytest.raises(FrameError):
        decompress(algorithm, b"", 1)


@pytest.mark.parametrize("algorithm", COMPRESSING)
@given(plain=st.binary(min_size=1, max_size=500), data=st.data())
def test_damage_is_a_frame_error(algorithm: int, plain: bytes, data: st.DataObject) -> None:
    body = bytearray(compress(algorithm, plain))
    at = data.draw(st.integers(0, len(body) - 1))
    for damaged in (body[:at], body[:at] + bytes((body[at] ^ 0x10,)) + body[at + 1 :]):
        try:
            decompress(algorithm, bytes(damaged), INFLATED)
        except FrameError:
            continue


@pytest.mark.parametrize("algorithm", COMPRESSING)
def test_a_body_that_is_cut_short_is_refused(algorithm: int) -> None:
    body = bytes(compress(algorithm, Random(1).randbytes(2000)))
    for length in (0, 1, 5, len(body) // 2, len(body) - 1):
        with pytest.raises(FrameError):
            decompress(algorithm, body[:length], INFLATED)


def test_gzip_members_are_joined_as_go_joins_them() -> None:
    members = gzip.compress(b"one ") + gzip.compress(b"two")
    assert decompress(2, members, 7) == b"one two"
    with pytest.raises(FrameError, match="more than"):
        decompress(2, members, 6)
    with pytest.raises(FrameError, match="damaged"):
        decompress(2, members + b"tail", INFLATED)


def test_what_follows_the_end_is_ignored() -> None:
    assert decompress(3, zlib.compress(b"plain") + b"tail", 5) == b"plain"
    assert decompress(4, lzw.encode(b"plain") + b"tail", 5) == b"plain"


def bomb(algorithm: int, bytes_: int) -> bytes:
    """A short body that inflates to so many zeros."""
    if algorithm == 4:
        return lzw.encode(bytes(min(bytes_, 8 << 20)))  # a table of 12 bits holds no more in 16 KiB
    deflater = zlib.compressobj(9, wbits=31 if algorithm == 2 else 15)
    block = bytes(1 << 20)
    return b"".join(deflater.compress(block) for _ in range(bytes_ >> 20)) + deflater.flush()


@pytest.mark.parametrize("algorithm", COMPRESSING)
def test_a_bomb_stays_within_its_bound(algorithm: int) -> None:
    body = bomb(algorithm, 64 << 20)
    with traced_memory() as traced:
        with pytest.raises(FrameError, match="more than"):
            decompress(algorithm, body, INFLATED)
        _, peak = traced.get_traced_memory()
    assert peak < 4 << 20


def test_empty_gzip_members_are_bounded() -> None:
    """Members without output must not cost more than their own bytes: no copy of the rest each."""
    body = gzip.compress(b"", mtime=0) * 20_000
    assert decompress(2, body, 10) == b""
