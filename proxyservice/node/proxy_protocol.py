"""Headers of HAProxy's PROXY protocol: tell a target who its visitor is.

Version 1 is a line of text, version 2 is binary; a target expects one of them
before the first byte of the visitor. Knows addresses, no connection.
"""

from __future__ import annotations

import ipaddress
import struct

from twisted.internet.address import IPv4Address, IPv6Address

from proxyservice.wire.proxy_header import (
    SIGNATURE,
    TCP_OVER_IPV4,
    TCP_OVER_IPV6,
    VERSION_2_PROXY,
)

Address = IPv4Address | IPv6Address


def header_v1(visitor: Address, proxy_address: Address) -> bytes:
    """One line, at most 107 bytes; `UNKNOWN` when one end is IPv4 and the other IPv6."""
    source = _ip_address(visitor)
    destination = _ip_address(proxy_address, source.version)
    if source.version != destination.version:
        return b"PROXY UNKNOWN\r\n"
    ends = f"{source} {destination} {visitor.port} {proxy_address.port}"
    return f"PROXY TCP{source.version} {ends}\r\n".encode()


def header_v2(visitor: Address, proxy_address: Address) -> bytes:
    """28 or 52 bytes; of mixed ends the IPv4 one is written as an IPv4-mapped IPv6 address."""
    source = _ip_address(visitor)
    destination = _ip_address(proxy_address, source.version)
    family = TCP_OVER_IPV4
    if 6 in (source.version, destination.version):
        family = TCP_OVER_IPV6
        source, destination = _as_ipv6(source), _as_ipv6(destination)
    ends = source.packed + destination.packed
    ends += struct.pack("!HH", visitor.port, proxy_address.port)
    return SIGNATURE + struct.pack("!BBH", VERSION_2_PROXY, family, len(ends)) + ends


HEADERS = {"v1": header_v1, "v2": header_v2}
"""By the name that people give."""

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def _ip_address(end: Address, version: int = 4) -> _IPAddress:
    """The address without its zone, which means nothing on another machine.

    A relay may call its proxy addresses by a name; "unspecified" stands for one.
    """
    try:
        return ipaddress.ip_address(end.host.partition("%")[0])
    except ValueError:
        return ipaddress.IPv6Address(0) if version == 6 else ipaddress.IPv4Address(0)


def _as_ipv6(address: _IPAddress) -> _IPAddress:
    return address if address.version == 6 else ipaddress.IPv6Address(f"::ffff:{address}")
