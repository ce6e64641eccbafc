"""HAProxy's PROXY protocol, read: who is really at the other end of a front end's connection.

Version 1 is a line of text, version 2 is binary; one of them comes before the
first byte of the connection itself. Knows bytes and no connection.
Source: haproxy's doc/proxy-protocol.txt.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from proxyservice.errors import FrameError

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
"""Begins version 2."""

VERSION_2_PROXY = 0x21
"""Version 2, command PROXY: the connection is somebody else's."""

VERSION_2_LOCAL = 0x20
"""The front end speaks for itself, as when it looks whether we are alive."""

UNSPECIFIED = 0x00
TCP_OVER_IPV4 = 0x11
TCP_OVER_IPV6 = 0x21
UNIX_STREAM = 0x31

LINE_LIMIT_BYTES = 107
"""Of version 1, its end included."""

HEADER_LIMIT_BYTES = 4096
"""Of version 2: what front ends add of their own (TLS names, identifiers) is a few hundred."""

_FIXED = struct.Struct("!12sBBH")  # signature, version and command, family, bytes to come
_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN( .*)?")

End = tuple[str, int]
"""IP address and port."""

Version = type[IPv4Address] | type[IPv6Address]


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A whole header; without ends the connection is the front end's own, or of an unknown kind."""

    n_bytes: int  # what follows is the connection's
    source: End | None = None
    destination: End | None = None

    @classmethod
    def read(cls, data: bytes) -> ProxyHeader | None:
        """The header that ``data``, all bytes so far, begins with; None while it is not complete.

        Raises FrameError as soon as it cannot become one.
        """
        if data[:12] == SIGNATURE[: len(data)]:
            return cls._version_2(data)
        if data[:6] == b"PROXY "[: len(data)]:
            return cls._version_1(data)
        raise FrameError("no PROXY header")

    @classmethod
    def _version_1(cls, data: bytes) -> ProxyHeader | None:
        line, end, _ = data[:LINE_LIMIT_BYTES].partition(b"\r\n")
        if not end:
            if len(data) >= LINE_LIMIT_BYTES:
                raise FrameError("a PROXY header without end")
            return None
        n_bytes = len(line) + len(end)
        if _UNKNOWN.fullmatch(line):
            return cls(n_bytes)
        match = _LINE.fullmatch(line)
        if match is None:
            raise FrameError("a malformed PROXY header")
        version = IPv4Address if match[1] == b"4" else IPv6Address
        source, destination, from_port, to_port = (part.decode() for part in match.groups()[1:])
        return cls(
            n_bytes,
            _end(version, source, int(from_port)),
            _end(version, destination, int(to_port)),
        )

    @classmethod
    def _version_2(cls, data: bytes) -> ProxyHeader | None:
        if len(data) < _FIXED.size:
            return None
        _, command, family, length = _FIXED.unpack_from(data)
        n_bytes = _FIXED.size + length
        if command not in (VERSION_2_PROXY, VERSION_2_LOCAL) or n_bytes > HEADER_LIMIT_BYTES:
            raise FrameError("a PROXY header of another version, or too long")
        if len(data) < n_bytes:
            return None
        if command == VERSION_2_LOCAL or family in (UNSPECIFIED, UNIX_STREAM):
            return cls(n_bytes)
        return cls(n_bytes, *_ends(family, data[_FIXED.size : n_bytes]))


def _ends(family: int, block: bytes) -> tuple[End, End]:
    """Two addresses, two ports, and what else the front end has to tell."""
    if family not in (TCP_OVER_IPV4, TCP_OVER_IPV6):
        raise FrameError("a PROXY header for something else than TCP")
    version: Version = IPv4Address if family == TCP_OVER_IPV4 else IPv6Address
    size = 4 if version is IPv4Address else 16
    if len(block) < 2 * size + 4:
        raise FrameError("a PROXY header that is shorter than its addresses")
    source, destination, from_port, to_port = struct.unpack_from(f"!{size}s{size}sHH", block)
    return _end(version, source, from_port), _end(version, destination, to_port)


def _end(version: Version, address: str | bytes, port: int) -> End:
    try:
        host = str(version(address))
    except ValueError:
        raise FrameError("a PROXY header without an IP address") from None
    if port > 0xFFFF:
        raise FrameError("a PROXY header with no port")
    return host, port
