"""Any chunking gives the same frames; limits hold before a byte of a body is kept."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.errors import FrameError
from proxyservice.wire.framing import HEADER, HEADER_BYTES, Frame, FrameDecoder, encode_frame
from tests.wire.bodies import NET

LIMIT = 1 << 16


def frames_of(seed: int, count: int = 8) -> list[bytes]:
    random = Random(seed)
    return [
        encode_frame(
            NET,
            random.randbytes(random.choice((1, 2, 10, 300, 5000))),
            flag=random.randrange(256),
            algorithm=random.randrange(256),
        )
        for _ in range(count)
    ]


def decoded(decoder: FrameDecoder, data: bytes, cuts: list[int]) -> list[bytes]:
    got, pos = [], 0
    for size in [*cuts, len(data)]:
        for frame in decoder.feed(data[pos : pos + size]):
            assert isinstance(frame, Frame)
            assert bytes(frame.raw) == encode_frame(
                NET, bytes(frame.body), flag=frame.flag, algorithm=frame.algorithm
            )
            got.append(bytes(frame.raw))
        pos += size
    return got


@given(st.integers(0, 2**32), st.lists(st.integers(0, 2000), max_size=30), st.binary(max_size=9))
def test_any_chunking_gives_the_same_frames(seed: int, cuts: list[int], tail: bytes) -> None:
    frames = frames_of(seed)
    decoder = FrameDecoder(NET, LIMIT)
    assert decoded(decoder, b"".join(frames) + tail, cuts) == frames
    assert decoder.buffered_bytes == len(tail)


def test_one_byte_at_a_time() -> None:
    frames = frames_of(1)
    data = b"".join(frames)
    assert decoded(FrameDecoder(NET, LIMIT), data, [1] * len(data)) == frames


@pytest.mark.parametrize("name", ["network", "empty", "long", "longest"])
@given(seed=st.integers(0, 2**32), cut=st.integers(1, 40))
def test_a_header_is_judged_before_its_body_is_kept(name: str, seed: int, cut: int) -> None:
    network, length = {
        "network": (NET ^ 1, 10),
        "empty": (NET, 0),
        "long": (NET, LIMIT + 1),
        "longest": (NET, 0xFFFFFFFF),
    }[name]
    good = frames_of(seed, 2)
    data = b"".join(good) + HEADER.pack(network, 0, 0, length) + bytes(30)
    decoder, got = FrameDecoder(NET, LIMIT), []
    with pytest.raises(FrameError):  # noqa: PT012 - what comes before it counts
        for pos in range(0, len(data), cut):
            got += [bytes(frame.raw) for frame in decoder.feed(data[pos : pos + cut])]
    assert decoder.buffered_bytes == 0
    assert b"".join(good).startswith(b"".join(got))
    with pytest.raises(FrameError):
        list(decoder.feed(good[0]))


def test_who_stops_early_has_given_up() -> None:
    frames = frames_of(2)
    decoder = FrameDecoder(NET, LIMIT)
    items = decoder.feed(b"".join(frames) + b"tail")
    next(items)
    with pytest.raises(FrameError, match="while earlier ones"):
        list(decoder.feed(frames[0]))
    items.close()
    assert not list(decoder.feed(frames[0]))
    assert decoder.buffered_bytes == 0


def test_an_announced_frame_takes_no_memory() -> None:
    decoder = FrameDecoder(NET, LIMIT)
    assert not list(decoder.feed(HEADER.pack(NET, 0, 0, LIMIT) + b"x"))
    assert decoder.buffered_bytes == HEADER_BYTES + 1


def test_the_largest_body_is_taken() -> None:
    frame = encode_frame(NET, bytes(LIMIT))
    assert decoded(FrameDecoder(NET, LIMIT), frame, [9, 1, 1000]) == [frame]
