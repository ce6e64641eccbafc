"""PROXY protocol headers, read back by the parsers of Twisted and nginx."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from proxyservice.node.proxy_protocol import HEADERS, Address, header_v1, header_v2

VISITOR = IPv4Address("TCP", "203.0.113.7", 51000)
PROXY = IPv4Address("TCP", "198.51.100.1", 20000)
VISITOR_6 = IPv6Address("TCP", "2001:db8::7", 51000)
PROXY_6 = IPv6Address("TCP", "2001:db8::1", 20000)

PORTS = st.integers(0, 65535)
IPV4 = st.builds(IPv4Address, st.just("TCP"), st.ip_addresses(v=4).map(str), PORTS)
OWN_IPV6 = st.ip_addresses(v=6).filter(lambda one: one.ipv4_mapped is None)  # type: ignore[union-attr]
IPV6 = st.builds(IPv6Address, st.just("TCP"), OWN_IPV6.map(str), PORTS)
PARSERS: dict[str, Any] = {"v1": V1Parser, "v2": V2Parser}


def same(parsed: Any, meant: Address) -> bool:
    """Twisted writes IPv6 addresses in its own long form."""
    hosts = (ipaddress.ip_address(end.host) for end in (parsed, meant))
    return len(set(hosts)) == 1 and parsed.port == meant.port


@pytest.mark.parametrize("version", HEADERS)
@given(ends=st.tuples(IPV4, IPV4) | st.tuples(IPV6, IPV6), first=st.binary(max_size=30))
def test_twisted_reads_them(version: str, ends: tuple[Any, Any], first: bytes) -> None:
    info, rest = PARSERS[version]().feed(HEADERS[version](*ends) + first)
    assert rest == first
    assert same(info.source, ends[0])
    assert same(info.destination, ends[1])


def test_as_the_specification_writes_them() -> None:
    assert header_v1(VISITOR, PROXY) == b"PROXY TCP4 203.0.113.7 198.51.100.1 51000 20000\r\n"
    assert header_v1(VISITOR_6, PROXY_6) == b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 20000\r\n"
    assert header_v2(VISITOR, PROXY) == bytes.fromhex(
        "0d0a0d0a000d0a515549540a 21 11 000c cb007107 c6336401 c738 4e20"
    )
    assert header_v2(VISITOR_6, PROXY_6) == bytes.fromhex(
        "0d0a0d0a000d0a515549540a 21 21 0024"
        "20010db8000000000000000000000007 20010db8000000000000000000000001 c738 4e20"
    )


@given(ends=st.tuples(IPV6, IPV6))
def test_the_longest_line_is_within_the_limit(ends: tuple[Any, Any]) -> None:
    assert len(header_v1(*ends)) <= 107


@pytest.mark.parametrize("version", HEADERS)
@pytest.mark.parametrize(
    ("visitor", "proxy", "told"),
    [
        (VISITOR, PROXY_6, IPv4Address("TCP", "0.0.0.0", 20000)),
        (VISITOR_6, PROXY, IPv6Address("TCP", "::", 20000)),
        (VISITOR, IPv6Address("TCP", "::ffff:198.51.100.1", 20000), PROXY),
    ],
)
def test_of_two_families_the_visitors_is_told(
    version: str, visitor: Address, proxy: Address, told: Address
) -> None:
    info, _ = PARSERS[version]().feed(HEADERS[version](visitor, proxy))
    assert same(info.source, visitor)
    assert same(info.destination, told)


@pytest.mark.parametrize("version", HEADERS)
@pytest.mark.parametrize("proxy", [PROXY, PROXY_6])
def test_a_mapped_visitor_is_an_ipv4_one(version: str, proxy: Address) -> None:
    mapped = IPv6Address("TCP", "::ffff:203.0.113.7", 51000)
    assert HEADERS[version](mapped, proxy) == HEADERS[version](VISITOR, proxy)


def test_a_zone_stays_at_home() -> None:
    visitor = IPv6Address("TCP", "fe80::7%eth0", 1)
    assert header_v1(visitor, PROXY_6) == b"PROXY TCP6 fe80::7 2001:db8::1 1 20000\r\n"


@pytest.mark.parametrize("visitor", [VISITOR, VISITOR_6])
@pytest.mark.parametrize("version", HEADERS)
def test_a_relay_that_is_called_by_name_hides_no_visitor(version: str, visitor: Address) -> None:
    named = IPv4Address("TCP", "relay.example", 20000)
    info, _ = PARSERS[version]().feed(HEADERS[version](visitor, named))
    assert same(info.source, visitor)


NGINX = """
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr";
    }}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path, free_port: int) -> Iterator[int]:
    """The port of an nginx that tells who its visitor is."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("there is no nginx")
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(NGINX.format(directory=tmp_path, port=free_port))
    running = subprocess.Popen(
        [program, "-p", tmp_path, "-c", configuration], stderr=subprocess.DEVNULL
    )
    try:
        yield free_port
    finally:
        running.terminate()
        running.wait(timeout=10)


def ask(port: int, header: bytes) -> str:
    """What nginx says about the visitor; waits until it listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nginx does not listen"
    with connection:
        connection.sendall(header + b"GET / HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as answer:
            return answer.read().decode().partition("\r\n\r\n")[2]


@pytest.mark.process
def test_nginx_reads_them(nginx: int) -> None:
    for header in HEADERS.values():
        assert ask(nginx, header(VISITOR, PROXY)) == "203.0.113.7 51000 198.51.100.1"
        assert ask(nginx, header(VISITOR_6, PROXY_6)) == "2001:db8::7 51000 2001:db8::1"
        assert ask(nginx, header(VISITOR, PROXY_6)) == "203.0.113.7 51000 0.0.0.0"
        assert ask(nginx, header(VISITOR_6, PROXY)) == "2001:db8::7 51000 ::"
