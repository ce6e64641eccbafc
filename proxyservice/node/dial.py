"""Where a node dials: servers as people write them, and peers' proxy addresses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint

from proxyservice.errors import StartError
from proxyservice.net.addresses import format_host_port
from proxyservice.node.client import EagerTCPEndpoint

DEFAULT_PORT = 6008
"""Where a relay listens unless its operator chose otherwise."""

_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:/\[\]]+))(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Server:
    """One relay: its name, by which it is known and pinned, and how to reach it."""

    name: str
    endpoint: Callable[[], IStreamClientEndpoint]
    """Called for every attempt, so that names are resolved anew."""


def split_host_port(text: str, default_port: int = 0) -> tuple[str, int]:
    """Take `HOST[:PORT]` apart, IPv6 in brackets. Raises ValueError."""
    match = _HOST_PORT.fullmatch(text)
    port = int(match[3] or default_port) if match else 0
    if match is None or not 0 < port < 65536:
        raise ValueError(f"{text!r} is no HOST{'[:PORT]' if default_port else ':PORT'}")
    return match[1] or match[2], port


def host_port_of(address: Any) -> str:
    """`host:port` of a transport's end; empty for one that has neither (a unix socket)."""
    host, port = getattr(address, "host", None), getattr(address, "port", 0)
    return format_host_port(host, port) if host is not None else ""


def parse_server(server: str | Server, reactor: Any) -> Server:
    """From what the user wrote to a `Server`. Raises StartError."""
    if isinstance(server, Server):
        return server
    try:
        host, port = split_host_port(server, DEFAULT_PORT)
    except ValueError as error:
        raise StartError(f"server {error}") from None
    return Server(format_host_port(host, port), lambda: EagerTCPEndpoint(reactor, host, port))


def peer_endpoint(address: str, reactor: Any) -> IStreamClientEndpoint:
    """The endpoint of a peer's proxy address, `host:port`. Raises ValueError."""
    host, port = split_host_port(address)
    endpoint: IStreamClientEndpoint = EagerTCPEndpoint(reactor, host, port)
    return endpoint
