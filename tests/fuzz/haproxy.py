"""HAProxy's header: one verdict, whatever follows it and however little of it is there yet."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from proxyservice.errors import FrameError
from proxyservice.wire.proxy_header import ProxyHeader
from tests.fuzz.script import Script
from tests.wire.test_proxy_header import GOOD, version_2

LONGEST_BYTES = 4096
REPEATED = (1, 1, 1, 40, 400)


def check(data: bytes) -> None:
    script = Script(data)
    times, said = script.choice(REPEATED), script.rest()
    said = (said * times)[: 3 * LONGEST_BYTES]
    header, error = read(said)
    for size in {*range(min(len(said), 130)), *range(0, len(said), 97)}:
        partly, wrong = read(said[:size])
        if wrong:
            assert error, "what cannot become a header is none"
        elif partly is not None:
            assert partly == header
        else:
            assert header is None or size < header.n_bytes
    if header is not None:
        check_header(header, said)


def read(data: bytes) -> tuple[ProxyHeader | None, bool]:
    """The header, if it is whole, and whether it is none; no other error escapes."""
    try:
        return ProxyHeader.read(data), False
    except FrameError:
        return None, True


def check_header(header: ProxyHeader, said: bytes) -> None:
    assert 0 < header.n_bytes <= min(LONGEST_BYTES, len(said))
    assert read(said[: header.n_bytes]) == (header, False)
    assert read(said[: header.n_bytes] + bytes(5)) == (header, False)
    assert (header.source is None) == (header.destination is None)
    for end in (header.source, header.destination):
        if end is not None:
            host, port = end
            assert str(ip_address(host)) == host, "an address as everybody else writes it"
            assert 0 <= port <= 0xFFFF


def seeds() -> Iterator[bytes]:
    for data, _ in GOOD.values():
        yield b"\0" + data + b"and more"
        yield b"\0" + data[: len(data) // 2]
    yield b"\0PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n"
    yield b"\0PROXY TCP6 1.2.3.4 ::1 1 1\r\n"
    yield b"\0PROXY UNKNOWN " + b"x" * 120
    yield b"\4\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"
    yield b"\0" + version_2(0x21, 0x11, bytes(12) + bytes(4500))
    yield b"\0" + version_2(0x21, 0x12, bytes(12))
