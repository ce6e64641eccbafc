"""The usual mistakes of people who name a relay: another spelling, another kind of server.

Knows text and first bytes, nothing of connections.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from proxyservice.text import printable

TLS_PREFIX = "tls:"

LONGEST_ANSWER_BYTES = 80
"""So much of what a server says first shows what it is."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?:/+(?=[^/])|(?=[^/])(?![0-9]+\Z))|//")
_SAFE_SCHEMES = frozenset({"https", "wss", "tls", "ssl", "tcps"})

_GREETINGS: tuple[tuple[bytes, str], ...] = (
    (b"HTTP/", "an HTTP server"),
    (b"<!DOCTYPE", "an HTTP server"),
    (b"<html", "an HTTP server"),
    (b"SSH-", "an SSH server"),
    (b"220", "a mail or FTP server"),
    (b"+OK", "a mail server"),
    (b"* OK", "a mail server"),
    (b"-ERR", "a Redis server"),
    (b"RFB ", "a VNC server"),
)
_TLS_RECORDS = tuple(bytes((kind, 3)) for kind in (0x14, 0x15, 0x16))
_SAID = re.compile(rb"[\t\x20-\x7e]{4,}(?=[\r\n]|\Z)")


def likely_meant(text: str) -> str:
    """What somebody who wrote this as a relay may have meant; the same text when nobody knows."""
    meant, is_tls = text.strip().strip("'\""), False
    while (scheme := _SCHEME.match(meant)) and not _is_ipv6(meant):
        name = (scheme[1] or "").lower()
        if "//" not in scheme[0] and name not in _SAFE_SCHEMES:
            break  # a host, and what should be its port
        is_tls = is_tls or name in _SAFE_SCHEMES
        meant = meant[scheme.end() :]
    meant = re.split("[/?#]", meant, maxsplit=1)[0].rpartition("@")[2]
    if _is_ipv6(meant):
        meant = f"[{meant}]"
    return f"{TLS_PREFIX if is_tls else ''}{meant}"


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def what_answers(first: bytes, server: str) -> str:
    """What kind of server says this first, and what to do; empty when it may be a relay.

    ``first``: its first bytes, below TLS as long as that is not agreed on;
    ``server`` as the user named it.
    """
    if not first:
        return ""
    if speaks_tls(first):
        asked_for = server.startswith(TLS_PREFIX)
        return "" if asked_for else f"that port speaks TLS; write {TLS_PREFIX}{server}"
    for greeting, kind in _GREETINGS:
        if first[: len(greeting)].upper() == greeting.upper():
            return f"{kind} answers there, not a relay; is the port right?"
    if said := _SAID.match(first):
        return f"no relay answers there; it says {printable(said[0].decode('ascii'), 60)!r}"
    return ""


def speaks_tls(first: bytes) -> bool:
    """Whether these are the first bytes of TLS: a handshake or an alert."""
    return first.startswith(_TLS_RECORDS)


def no_tls_there(server: str) -> str:
    """Of a server that was dialled with TLS, and does not speak it."""
    return f"that port speaks no TLS; write {server.removeprefix(TLS_PREFIX)}"


def closed_silently(server: str, *, in_handshake: bool) -> str:
    """Of a server that closed the connection before it said anything."""
    if in_handshake:
        plain = server.removeprefix(TLS_PREFIX)
        return f"it closed the connection in the TLS handshake; if it speaks no TLS, write {plain}"
    if server.startswith(TLS_PREFIX):
        return "it closed the connection without a word; is it a relay?"
    return (
        "it closed the connection without a word; is it a relay? "
        f"If it speaks TLS, write {TLS_PREFIX}{server}"
    )
