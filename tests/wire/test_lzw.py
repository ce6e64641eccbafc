"""LZW against Go's own (vectors made by lzw_go.go) and against a plain second implementation."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.errors import FrameError
from proxyservice.wire import lzw
from tests.wire.lzw_plain import CLEAR, END, straightforward_decode, straightforward_encode

GO: dict[str, list[dict[str, Any]]] = json.loads(
    Path(__file__).with_name("lzw_go.json").read_text()
)
LIMIT = 1 << 20


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def plain_of(vector: dict[str, Any]) -> bytes:
    state, out = vector["seed"], bytearray()
    for _ in range(vector["length"]):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append((state >> 56) % vector["alphabet"])
    return bytes(out)


@pytest.mark.parametrize("vector", GO["encoded"], ids=lambda v: f"{v['length']}of{v['alphabet']}")
def test_what_go_writes(vector: dict[str, Any]) -> None:
    plain = plain_of(vector)
    stream = lzw.encode(plain)
    assert (len(stream), sha(stream)) == (vector["stream_bytes"], vector["stream_sha256"])
    assert lzw.decode(stream, len(plain)) == plain


def test_what_go_reads_and_refuses() -> None:
    for vector in GO["decoded"]:
        stream = base64.b64decode(vector["stream"])
        try:
            plain = lzw.decode(stream, LIMIT)
        except FrameError:
            assert vector["error"], vector["stream"]
        else:
            assert not vector["error"], vector["stream"]
            assert (len(plain), sha(plain)) == (vector["plain_bytes"], vector["plain_sha256"])


@given(st.lists(st.sampled_from([b"a", b"ab", b"abc", bytes(7), b"\xff\x00"]), max_size=400))
def test_encoding_is_what_is_written_down(parts: list[bytes]) -> None:
    plain = b"".join(parts)
    assert lzw.encode(plain) == straightforward_encode(plain)


@pytest.mark.parametrize("alphabet", [2, 40, 256])
@pytest.mark.parametrize("length", [3838, 3839, 3840, 9000, 20_000])
def test_encoding_over_full_tables(length: int, alphabet: int) -> None:
    random = Random(length)
    plain = bytes(random.randrange(alphabet) for _ in range(length))
    stream = lzw.encode(plain)
    assert stream == straightforward_encode(plain)
    assert lzw.decode(stream, length) == straightforward_decode(stream) == plain


@given(st.binary(max_size=200), st.binary(max_size=60), st.integers(0, 400))
def test_decoding_is_what_is_written_down(plain: bytes, noise: bytes, at: int) -> None:
    stream = lzw.encode(plain)
    for damaged in (noise, stream[:at] + noise + stream[at + len(noise) :], stream + noise):
        try:
            got: bytes | None = lzw.decode(damaged, LIMIT)
        except FrameError:
            got = None
        assert got == straightforward_decode(damaged)


def test_a_full_table_is_frozen_until_clear() -> None:
    literals = [number * 7 % 256 for number in range(4000)]
    for tail in ([4095, 4095, 300, END], [4095, CLEAR, 97, 258, END], [CLEAR, 258, END], []):
        stream = packed([*literals, *tail])
        try:
            got: bytes | None = lzw.decode(stream, LIMIT)
        except FrameError:
            got = None
        assert got == straightforward_decode(stream)
        assert (got is not None) == (tail != [] and tail != [CLEAR, 258, END])


def packed(codes: list[int]) -> bytes:
    """Codes in the widths that a decoder expects, whatever they are."""
    bits, width, hi = "", 9, 257
    for code in codes:
        bits += format(code, f"0{width}b")
        hi += 1
        if code == CLEAR:
            width, hi = 9, 257
        elif hi == 1 << width:
            width, hi = (width + 1, hi) if width < 12 else (12, hi - 1)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


@given(st.binary(max_size=400), st.integers(0, 400))
def test_the_output_is_bounded(plain: bytes, limit: int) -> None:
    stream = lzw.encode(plain)
    if limit >= len(plain):
        assert lzw.decode(stream, limit) == plain
    else:
        with pytest.raises(FrameError, match="more than"):
            lzw.decode(stream, limit)
