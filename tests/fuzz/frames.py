"""FrameDecoder: the same bytes give the same frames in whatever pieces, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.framing import (
    DEFAULT_NETWORK_ID,
    HEADER,
    HEADER_BYTES,
    Frame,
    FrameDecoder,
    StreamPiece,
    encode_frame,
)
from proxyservice.wire.stream_frames import stream_control_frame, stream_data_prefix
from tests.fuzz.golden import golden
from tests.fuzz.script import Script, pieces

NET = DEFAULT_NETWORK_ID
BODY_LIMITS = (1, 20, 300, 1 << 16)
PAYLOAD_LIMITS = (0, 1, 40, 1 << 18)


class Data(NamedTuple):
    """The pieces of one StreamData, joined."""

    stream_id: int
    payload: bytes
    complete: bool


class Heard(NamedTuple):
    """What a decoder made of some bytes."""

    items: list[bytes | Data]
    error: str
    buffered_bytes: int


def check(data: bytes) -> None:
    script = Script(data)
    limits = script.choice(BODY_LIMITS), script.choice(PAYLOAD_LIMITS)
    sizes, stream = script.sizes(), script.rest()
    whole = heard(limits, stream, [])
    assert heard(limits, stream, sizes) == whole
    assert heard(limits, stream, [1] * len(stream)) == whole
    left = stream[accounted_bytes(whole, stream) :]
    if whole.error:
        assert_refusable(left, *limits)
    else:
        assert whole.buffered_bytes in (0, len(left))


def heard(limits: tuple[int, int], stream: bytes, sizes: list[int]) -> Heard:
    decoder = FrameDecoder(NET, *limits)
    items: list[bytes | Data] = []
    for piece in pieces(stream, sizes):
        try:
            for item in decoder.feed(piece):
                add(items, item)
        except FrameError as error:
            assert decoder.buffered_bytes == 0
            return Heard(items, str(error), 0)
        assert decoder.buffered_bytes <= HEADER_BYTES + max(limits[0], limits[1] + 32)
    return Heard(items, "", decoder.buffered_bytes)


def add(items: list[bytes | Data], item: Frame | StreamPiece) -> None:
    """Copy what was yielded, a later piece behind the one before."""
    if isinstance(item, Frame):
        assert item.raw[HEADER_BYTES:] == item.body
        items.append(bytes(item.raw))
        return
    before = b""
    if items and isinstance(last := items[-1], Data) and not last.complete:
        assert last.stream_id == item.stream_id
        before = last.payload
        items.pop()
    items.append(Data(item.stream_id, before + bytes(item.payload), item.last))


def accounted_bytes(whole: Heard, stream: bytes) -> int:
    """Put every whole frame back together: it is what came, in order and without a gap."""
    pos = 0
    for item in whole.items:
        if isinstance(item, Data) and not item.complete:
            assert item is whole.items[-1]
            break
        if isinstance(item, Data):
            raw = stream_data_prefix(NET, item.stream_id, len(item.payload)) + item.payload
        else:
            raw = item
        came = stream[pos : pos + len(raw)]
        compress_info = came[4:6] if isinstance(item, Data) else raw[4:6]
        assert raw[:4] + compress_info + raw[6:] == came
        pos += len(raw)
    return pos


def assert_refusable(left: bytes, body_limit: int, payload_limit: int) -> None:
    """Something must be wrong with the frame that a decoder refused."""
    network_id, _, _, body_bytes = HEADER.unpack_from(left)
    most = min(body_limit, payload_limit or body_limit)
    assert network_id != NET or not 0 < body_bytes <= most


def seeds() -> Iterator[bytes]:
    frames = [*golden("tcp_"), *golden("bad_")]
    for frame in frames:
        yield b"\3\3\0" + frame[:400]
    data = [
        stream_data_prefix(NET, stream_id, size) + bytes(size)
        for stream_id, size in ((0, 0), (1, 1), (300, 40), (2**64 - 1, 41))
    ]
    control = [
        stream_control_frame(NET, pb.OPCODE_STREAM_WINDOW, 1, b"\x08\x01"),
        stream_control_frame(NET, pb.OPCODE_STREAM_END, 1, b""),
        encode_frame(NET, b"\x20\x01\x38\x29\x0a\x01x"),
    ]
    for limits in (b"\3\3", b"\2\2", b"\1\1", b"\3\0"):
        yield limits + b"\4\1\12\20\5" + b"".join([frames[0], *data, *control, frames[4]])
        yield limits + b"\2\7\20" + b"".join(data)
