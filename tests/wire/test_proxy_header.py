"""PROXY headers as front ends write them, whole and in pieces, and everything that is none."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import address

from proxyservice.errors import FrameError
from proxyservice.node.proxy_protocol import HEADERS
from proxyservice.wire.proxy_header import HEADER_LIMIT_BYTES, SIGNATURE, ProxyHeader

ports = st.integers(0, 65535)


def version_2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


IPV4_BLOCK = bytes((203, 0, 113, 9, 198, 51, 100, 1)) + struct.pack("!HH", 40000, 6008)
IPV6_BLOCK = IPv6Address("2001:db8::9").packed + IPv6Address("2001:db8::1").packed + IPV4_BLOCK[-4:]
IPV4_ENDS = (("203.0.113.9", 40000), ("198.51.100.1", 6008))
IPV6_ENDS = (("2001:db8::9", 40000), ("2001:db8::1", 6008))
NO_ENDS = (None, None)

GOOD = {
    "text, IPv4": (b"PROXY TCP4 203.0.113.9 198.51.100.1 40000 6008\r\n", IPV4_ENDS),
    "text, IPv6": (b"PROXY TCP6 2001:DB8:0::9 2001:db8::1 40000 6008\r\n", IPV6_ENDS),
    "text, unknown": (b"PROXY UNKNOWN\r\n", NO_ENDS),
    "text, unknown with more": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", NO_ENDS),
    "binary, IPv4": (version_2(0x21, 0x11, IPV4_BLOCK), IPV4_ENDS),
    "binary, IPv4 and more": (version_2(0x21, 0x11, IPV4_BLOCK + bytes(300)), IPV4_ENDS),
    "binary, IPv6": (version_2(0x21, 0x21, IPV6_BLOCK), IPV6_ENDS),
    "binary, unix": (version_2(0x21, 0x31, bytes(216)), NO_ENDS),
    "binary, unknown": (version_2(0x21, 0, b""), NO_ENDS),
    "binary, the front end itself": (version_2(0x20, 0x11, IPV4_BLOCK), NO_ENDS),
}


@pytest.mark.parametrize(("header", "ends"), GOOD.values(), ids=GOOD)
def test_a_header_in_any_chunking(header: bytes, ends: tuple[object, object]) -> None:
    for size in range(len(header)):
        assert ProxyHeader.read(header[:size]) is None
    for behind in (b"", b"\x5d", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n", bytes(8000)):
        read = ProxyHeader.read(header + behind)
        assert read == ProxyHeader(len(header), *ends)


BAD = {
    "nothing of the kind": b"GET / HTTP/1.0\r\n",
    "a frame": b"\x5d",
    "one byte wrong": b"PROXX ",
    "no space": b"PROXYTCP4",
    "another family": b"PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n",
    "UDP": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
    "two spaces": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n",
    "one field less": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "one field more": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n",
    "another family's address": b"PROXY TCP4 ::1 1.2.3.4 1 1\r\n",
    "and the other way": b"PROXY TCP6 1.2.3.4 ::1 1 1\r\n",
    "a zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n",
    "a leading zero": b"PROXY TCP4 010.2.3.4 1.2.3.4 1 1\r\n",
    "a name": b"PROXY TCP4 localhost 1.2.3.4 1 1\r\n",
    "a port too high": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
    "a negative port": b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
    "a digit of another script": "PROXY TCP4 1.2.3.4 1.2.3.4 ١ 1\r\n".encode(),
    "no end": b"PROXY TCP4 " + b"1" * 200,
    "an end too late": b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    "version 1 in binary": version_2(0x11, 0x11, IPV4_BLOCK),
    "another command": version_2(0x22, 0x11, IPV4_BLOCK),
    "datagrams": version_2(0x21, 0x12, IPV4_BLOCK),
    "another address family": version_2(0x21, 0x41, IPV4_BLOCK),
    "shorter than its addresses": version_2(0x21, 0x11, IPV4_BLOCK[:-1]),
    "IPv6, shorter than its addresses": version_2(0x21, 0x21, IPV6_BLOCK[:-1]),
    "too long, said at once": (SIGNATURE + struct.pack("!BBH", 0x21, 0x11, HEADER_LIMIT_BYTES)),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        ProxyHeader.read(data)


@given(st.one_of(st.binary(max_size=200), st.sampled_from(list(BAD.values())).map(bytes)))
def test_any_bytes_are_a_header_or_refused_or_waited_for(data: bytes) -> None:
    for start in (data, SIGNATURE + data, b"PROXY " + data, b"PROXY TCP4 " + data + b"\r\n"):
        try:
            read = ProxyHeader.read(start)
        except FrameError:
            continue
        assert read is None or 0 < read.n_bytes <= len(start)


own_addresses = st.ip_addresses().filter(lambda one: getattr(one, "ipv4_mapped", None) is None)
"""A mapped address is written as the IPv4 one that it is."""


@given(st.sampled_from(sorted(HEADERS)), own_addresses, st.data())
def test_it_reads_what_nodes_of_ours_write(
    version: str, source: object, data: st.DataObject
) -> None:
    kind, st_kind = (
        (address.IPv4Address, 4) if isinstance(source, IPv4Address) else (address.IPv6Address, 6)
    )
    destination = data.draw(own_addresses.filter(lambda one: one.version == st_kind))
    ends = [(str(source), data.draw(ports)), (str(destination), data.draw(ports))]
    written = HEADERS[version](*(kind("TCP", *end) for end in ends))
    assert ProxyHeader.read(written + b"more") == ProxyHeader(len(written), *ends)
