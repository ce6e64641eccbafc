"""What is exposed: targets as people write them.

Reads text; dials nothing. Endpoint strings are Twisted's, and Twisted says
whether they make sense.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint

from proxyservice.node.dial import split_host_port
from proxyservice.text import argument_text

EXPECTED = "write a port (8080), HOST:PORT, or a client endpoint (unix:/run/app.sock)"

LOOPBACKS = ("127.0.0.1", "::1")
"""Where a bare port is dialled: servers on a developer's machine listen on either."""

_ENDPOINT = re.compile("(?:tcp|unix|ssl|tls):")
"""Begins an endpoint string of Twisted's own; a host of such a name is `tcp:NAME:PORT`."""

NOT_STREAMS = frozenset(
    {
        *("udp", "udp4", "udp6", "unixgram", "icmp", "sctp", "dccp", "quic", "kcp", "vsock"),
        *("http", "https", "ws", "wss", "file", "serial", "process", "exec"),
        *("fd", "stdio", "systemd", "haproxy", "proxied"),
    }
)
"""What people write before a colon and is no client endpoint for streams. Whoever has a host
of such a name writes `tcp:NAME:PORT`."""

LONGEST_PATH_BYTES = 107
"""Of a unix socket, as the kernel has it (`sun_path`, with the zero at its end)."""

_PORT = re.compile("[0-9]{1,5}")
_NUMBERS = re.compile("[0-9.]+")
_NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Target:
    """One local server. One of ``hosts``, ``path`` and ``endpoint`` says how to reach it."""

    name: str
    """As typed, as text; it is the origin address of the lease."""
    hosts: tuple[tuple[str, int], ...] = ()
    """IP addresses and ports, to be dialled in this order."""
    path: str = ""
    """Of a unix socket."""
    endpoint: str = ""
    """A client endpoint string."""

    @property
    def places(self) -> list[tuple[str, int] | str]:
        """Where to dial it without an endpoint; none when only an endpoint can."""
        return [self.path] if self.path else list(self.hosts)

    def client_endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """How to reach a target that has no ``places``; names are resolved at each connect."""
        try:
            host, port = split_host_port(self.endpoint.removeprefix("tcp:"))
        except ValueError:
            endpoint: IStreamClientEndpoint = clientFromString(reactor, self.endpoint)
        else:
            endpoint = HostnameEndpoint(reactor, host, port)
        return endpoint

    @property
    def trouble(self) -> str:
        """Why it cannot be reached now, as far as is seen without dialling; empty: nothing."""
        gone = self.path and not os.path.lexists(self.path)
        return "there is no such socket yet" if gone else ""


def parse_target(text: str) -> Target:
    """Read one TARGET. Raises ValueError with one line that says what is expected."""
    if _PORT.fullmatch(text):
        if not 0 < int(text) < 65536:
            raise ValueError(f"{text!r} is no port; from 1 to 65535")
        return Target(text, hosts=tuple((host, int(text)) for host in LOOPBACKS))
    if _NOT_PRINTED.search(text):
        raise _no_target(text)
    at_host = text.removeprefix("tcp:")
    kind, _, rest = text.partition(":")
    if kind.lower() in NOT_STREAMS:
        is_port = _PORT.fullmatch(rest)
        raise _no_target(text, f"; a host that is called {kind} is tcp:{text}" if is_port else "")
    try:
        host, port = split_host_port("" if _ENDPOINT.match(at_host) else at_host)
    except ValueError:
        endpoint = _endpoint(text)
        path = os.fsdecode(endpoint._path) if isinstance(endpoint, UNIXClientEndpoint) else ""
        _check_path(text, path)
        return Target(argument_text(text), path=path, endpoint=text)
    if host == "localhost":
        return Target(text, hosts=tuple((loopback, port) for loopback in LOOPBACKS))
    if _is_address(host):
        return Target(text, hosts=((host, port),))
    if at_host.startswith("[") or _NUMBERS.fullmatch(host):
        raise _no_target(text)
    return Target(argument_text(text), endpoint=f"tcp:{at_host}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _endpoint(text: str) -> IStreamClientEndpoint:
    from twisted.internet import reactor

    if text.endswith(":"):
        raise _no_target(text)
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
    except Exception as error:  # whatever a parser, which may be a plugin, raises
        why = f"; Twisted says: {' '.join(str(error).split())}" if _ENDPOINT.match(text) else ""
        raise _no_target(text, why) from None
    return endpoint


def _check_path(text: str, path: str) -> None:
    """Raises ValueError for what no socket can be; one that is not there yet may come."""
    if len(os.fsencode(path)) > LONGEST_PATH_BYTES:
        raise _no_target(text, f"; a socket's path has at most {LONGEST_PATH_BYTES} bytes")
    try:
        mode = os.stat(path).st_mode if path else stat.S_IFSOCK
    except (OSError, ValueError):
        return
    if not stat.S_ISSOCK(mode):
        raise _no_target(text, f"; {path} is no socket")


def _no_target(text: str, why: str = "") -> ValueError:
    return ValueError(f"{text!r} is no target; {EXPECTED}{why}")
