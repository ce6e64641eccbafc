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
    """One line, at most 107 bytes."""
    source, destination = _ends(visitor, proxy_address)
    ends = f"{source} {destination} {visitor.port} {proxy_address.port}"
    return f"PROXY TCP{source.version} {ends}\r\n".encode()


def header_v2(visitor: Address, proxy_address: Address) -> bytes:
    """28 bytes for an IPv4 visitor, 52 for an IPv6 one."""
    source, destination = _ends(visitor, proxy_address)
    family = TCP_OVER_IPV4 if source.version == 4 else TCP_OVER_IPV6
    ends = source.packed + destination.packed
    ends += struct.pack("!HH", visitor.port, proxy_address.port)
    return SIGNATURE + struct.pack("!BBH", VERSION_2_PROXY, family, len(ends)) + ends


HEADERS = {"v1": header_v1, "v2": header_v2}
"""By the name that people give."""

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


_UNSPECIFIED: dict[int, _IPAddress] = {
    4: ipaddress.IPv4Address(0),
    6: ipaddress.IPv6Address(0),
}


def _ends(visitor: Address, proxy_address: Address) -> tuple[_IPAddress, _IPAddress]:
    """Both ends in the visitor's family, which is what the target wants to know.

    A header has room for one family. The proxy address may be of the other one,
    or a name: then it is told as unspecified. To write the IPv4 end as an
    IPv4-mapped IPv6 address is no way out: Apache refuses such a header, and
    behind other servers the visitor is in no list of IPv4 addresses.
    """
    source = _ip_address(visitor.host) or _UNSPECIFIED[4]
    destination = _ip_address(proxy_address.host)
    if destination is None or destination.version != source.version:
        destination = _UNSPECIFIED[source.version]
    return source, destination


def _ip_address(host: str) -> _IPAddress | None:
    """The address without its zone, which means nothing elsewhere; None for a name."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address
