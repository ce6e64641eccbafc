"""RelayScanner: the short ways give the verdicts of protobuf, and the bytes that came."""

from __future__ import annotations

from collections.abc import Iterator

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.framing import COMPRESSED, DEFAULT_NETWORK_ID, HEADER, HEADER_BYTES
from proxyservice.wire.relay_check import RelayScanner
from proxyservice.wire.spare_buffers import SpareBuffers
from tests.fuzz.golden import golden
from tests.fuzz.script import Script, pieces
from tests.wire.relay_plain import expected

NET = DEFAULT_NETWORK_ID
MOST_BYTES = 20_000
INFLATED = (0, 0, 40, 2000)
SENDER = pb.ID(net_key=b"k", address="tcp://h:1").SerializeToString()
SENDER_FIELD = b"\x12" + bytes((len(SENDER),)) + SENDER
LONG = 4200
"""Payloads of this size are left out when a body is judged."""

PLAIN = (0, 1, 5)


def check(data: bytes) -> None:
    script = Script(data)
    inflated, sizes, stream = script.choice(INFLATED), script.sizes(), said(script)
    spare = SpareBuffers()
    relayed, good = expected_run(stream, inflated, spare)
    for cuts in ([], sizes):
        scanner = RelayScanner(NET, MOST_BYTES, inflated, spare)
        run, error = scanned(scanner, stream, cuts)
        assert run == stream[:relayed]
        assert error != good
        assert scanner.buffered_bytes == (len(stream) - relayed if good else 0)


def said(script: Script) -> bytes:
    """What a visitor sends: raw bytes, or frames of bodies that are mostly nearly good."""
    stream, body = bytearray(), b""
    while script:
        kind = script.number()
        if kind == 0xFF:
            stream += script.rest()
        compress_info = script.take(2) if kind & 0x80 else b"\0\2"
        body = body_of(kind & 7, script, body)
        flag, algorithm = compress_info.ljust(2, b"\0")
        stream += HEADER.pack(NET, flag, algorithm, len(body)) + body
    return bytes(stream)


def body_of(kind: int, script: Script, before: bytes) -> bytes:
    if kind == 0:
        return script.take(script.number(2) % 2000)
    if kind == 1:  # the last body with something else in some place
        at, size = script.number(), script.number() % 16
        return before[:at] + script.take(size) + before[at + size :]
    if kind == 2:  # the last body with more in some place
        at, size = script.number(), script.number() % 32
        return before[:at] + script.take(size) + before[at:]
    if kind == 3:  # a long field of some number in front of the last body
        return bytes((script.number() & 0x78 | 2,)) + b"\xe8\x20" + bytes(LONG) + before
    payload = script.take(script.number() % 200)
    front = pb.Message(message=payload).SerializeToString() if kind & 1 else b""
    sender = SENDER_FIELD if kind & 2 else b""
    return front + sender + script.take(script.number() % 64)


def expected_run(stream: bytes, inflated: int, spare: SpareBuffers) -> tuple[int, bool]:
    """How many bytes are to be relayed, and whether nothing is wrong; frame by frame.

    A scanner that has seen nothing before knows no short way.
    """
    pos = 0
    while len(stream) - pos >= HEADER_BYTES:
        network_id, flag, algorithm, body_bytes = HEADER.unpack_from(stream, pos)
        if network_id != NET or not 0 < body_bytes <= MOST_BYTES:
            return pos, False
        stop = pos + HEADER_BYTES + body_bytes
        if stop > len(stream):
            break
        fresh = RelayScanner(NET, MOST_BYTES, inflated, spare)
        run, error = scanned(fresh, stream[pos:stop], [])
        assert run == (b"" if error else stream[pos:stop])
        if flag != COMPRESSED or algorithm in PLAIN:
            assert error != expected(stream[pos + HEADER_BYTES : stop])
        if error:
            return pos, False
        pos = stop
    return pos, True


def scanned(scanner: RelayScanner, stream: bytes, cuts: list[int]) -> tuple[bytes, bool]:
    """The runs, joined, and whether an error ended them."""
    out = bytearray()
    try:
        for piece in pieces(stream, cuts):
            for run in scanner.feed(piece):
                out += run
    except FrameError:
        return bytes(out), True
    return bytes(out), False


def seeds() -> Iterator[bytes]:
    for frame in [*golden("tcp_"), *golden("bad_")]:
        yield b"\0\2\5\x40\xff" + frame * 2
        yield b"\3\0\xff" + frame
    net_id = pb.Message(netID=NET).SerializeToString()
    endings = (b"\x38\1", b"\x20\1\x28\2\x30\1\x38\xe8\7", b"\x38\x09", b"\x1a\x40" + bytes(64))
    for ending in endings:
        tail = ending + net_id
        record = bytes((7, 3)) + b"pay" + bytes((len(tail),)) + tail
        again = bytes((1, 2, 1, 0x61))
        yield b"\0\1\7" + record * 2 + again + bytes((3, 8)) + again + record
        yield b"\0\0" + record + bytes((4, 0, len(tail) + 2)) + b"\x12\0" + tail
