"""Where a node dials: servers as people write them, and peers' proxy addresses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from proxyservice.errors import StartError
from proxyservice.net.addresses import format_host_port
from proxyservice.net.names import NameLookups
from proxyservice.net.tls_transport import tls_factory
from proxyservice.node.client import EagerTCPEndpoint
from proxyservice.node.mistakes import TLS_PREFIX, likely_meant
from proxyservice.node.tls import TLSTrust

LONGEST_ADDRESS = 300
"""A host name has 253 characters at most."""

DEFAULT_PORT = 6008
"""Where a relay listens unless its operator chose otherwise."""

_ADDRESS = r"\[([0-9A-Fa-f:.]+(?:%[^\s%/\[\]]+)?)\]"  # IPv6, and the interface it is behind
_NAME = r"""([^\s:/\[\]@%?#,\\"'<>]+)"""
_HOST_PORT = re.compile(rf"(?:{_ADDRESS}|{_NAME})(?::([0-9]{{1,5}}))?")
_HOST_AND_MORE = re.compile(rf"(?:{_ADDRESS}|{_NAME}):[^:/@]*")

log = Logger()


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
        reason = f"{text!r} is no HOST{'[:PORT]' if default_port else ':PORT'}"
        if _HOST_AND_MORE.fullmatch(text):
            reason += "; a port is a number from 1 to 65535"
        raise ValueError(reason)
    return match[1] or match[2], port


def is_proxy_address(text: str) -> bool:
    """Whether a relay's `host:port` is one that can be shown and dialled."""
    try:
        split_host_port(text)
    except ValueError:
        return False
    return len(text) <= LONGEST_ADDRESS and text.isprintable()


def host_port_of(address: Any) -> str:
    """`host:port` of a transport's end; empty for one that has neither (a unix socket)."""
    host, port = getattr(address, "host", None), getattr(address, "port", 0)
    return format_host_port(host, port) if host is not None else ""


def parse_server(server: str | Server, reactor: Any, trust: TLSTrust | None = None) -> Server:
    """From what the user wrote, `HOST[:PORT]` or `tls:HOST[:PORT]`. Raises StartError."""
    if isinstance(server, Server):
        return server
    plain = server.removeprefix(TLS_PREFIX)
    try:
        host, port = split_host_port(plain, DEFAULT_PORT)
    except ValueError as error:
        raise StartError(f"server {error}{_suggestion(server)}") from None
    name = format_host_port(host, port)
    if plain == server:
        return Server(name, lambda: EagerTCPEndpoint(reactor, host, port))
    creators = _Creators(trust or TLSTrust(), host)
    return Server(
        TLS_PREFIX + name, lambda: _TLSEndpoint(reactor, host, port, creators.for_attempt())
    )


def refuse_unused_trust(servers: Iterable[str | Server], trust: TLSTrust, needs: str) -> None:
    """Raises ValueError where ``trust`` is asked for and no server has TLS; ``needs`` says how.

    Whoever names a pin believes that the relay is checked by it.
    """
    if trust == TLSTrust():
        return
    names = [one.name if isinstance(one, Server) else one for one in servers]
    if not any(name.startswith(TLS_PREFIX) for name in names):
        raise ValueError(needs)


def _suggestion(server: str) -> str:
    """What to write instead, where that can be guessed."""
    meant = likely_meant(server)
    try:
        split_host_port(meant.removeprefix(TLS_PREFIX), DEFAULT_PORT)
    except ValueError:
        return ""
    return f"; write {meant}" if meant != server else ""


class _Creators:
    """Makes TLS connections to one host, by the files as they are now.

    Certificates and authorities are renewed while a node runs. What cannot be
    read any more, by a process that gave up its rights or in the middle of a
    renewal, stays as it was.
    """

    def __init__(self, trust: TLSTrust, host: str) -> None:
        self._trust, self._host = trust, host
        self._creator = trust.creator(host)
        self._told = ""

    def for_attempt(self) -> Any:
        try:
            self._creator = self._trust.creator(self._host)
        except StartError as error:
            if str(error) != self._told:
                self._told = str(error)
                log.warn("{error}; what was read before stays in use", error=error)
        else:
            self._told = ""
        return self._creator


@implementer(IStreamClientEndpoint)
class _TLSEndpoint:
    """host:port with TLS on it; names are resolved at each attempt."""

    def __init__(self, reactor: Any, host: str, port: int, creator: Any) -> None:
        self._endpoint = EagerTCPEndpoint(reactor, host, port)
        self._creator = creator

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Fire with the wrapped protocol once TCP is connected; the handshake goes on by itself."""
        wrapped = tls_factory(self._creator, factory, is_client=True)
        connected: Deferred[Any] = self._endpoint.connect(wrapped)
        return connected.addCallback(lambda protocol: protocol.wrappedProtocol)


def peer_endpoint(address: str, reactor: Any, lookups: NameLookups) -> IStreamClientEndpoint:
    """The endpoint of a peer's proxy address, `host:port`. Raises ValueError.

    ``lookups``: apart from those of relays, as peers may name what they like.
    """
    host, port = split_host_port(address)
    endpoint: IStreamClientEndpoint = EagerTCPEndpoint(reactor, host, port, lookups)
    return endpoint
