"""What `--listen` says of one main port: an endpoint, and what stands before the first frame.

`tls:` in front: TLS. `haproxy:`: a PROXY header, in which a front end on this
machine tells whose connection it passes on. `tls:haproxy:`: the header in
plain, then TLS, as a front end has it that passes TLS on unopened.

Nodes come over TCP: sources, limits and leases go by the addresses of IP, so no other
endpoint of Twisted is taken.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from twisted.internet.endpoints import serverFromString

from proxyservice.net.eager import EagerServer
from proxyservice.net.tls_transport import tls_factory
from proxyservice.server.factory import MainFactory
from proxyservice.server.front_end import FrontedServer, FrontEndFactory
from proxyservice.server.tls import ServerCertificate

TLS_PREFIX = "tls:"
FRONT_END_PREFIX = "haproxy:"
KINDS = ("tcp:", "tcp6:", "systemd:")
TAKEN = "nodes connect over TCP: write tcp:6008, tcp6:6008 or systemd:domain=INET6:index=0"
NOT_HANDED_OVER = (
    "systemd has handed over no such socket; start proxyservice.socket, "
    "and write systemd:domain=INET6:index=0"
)

ACCEPT_SECONDS = 0.003
"""Of one turn: six that are let in, 0.5 ms each, or sixty that are closed, 0.05 ms each."""

ACCEPTS_AT_ONCE = 4
"""Between two looks at the time."""


@dataclass(frozen=True, slots=True)
class MainPort:
    """One `--listen`, taken apart; ``endpoint`` is Twisted's."""

    endpoint: str
    tls: bool
    front_end: bool

    @classmethod
    def parse(cls, description: str) -> MainPort:
        """Raises ValueError; of the endpoint itself only the kind is looked at."""
        inner = description.removeprefix(TLS_PREFIX)
        endpoint = inner.removeprefix(FRONT_END_PREFIX)
        front_end = endpoint != inner
        if front_end and endpoint.startswith((TLS_PREFIX, "ssl:")):
            raise ValueError("the PROXY header comes before TLS: write it as tls:haproxy:tcp:6009")
        if not endpoint.startswith(KINDS):
            raise ValueError(TAKEN)
        return cls(endpoint, inner != description, front_end)

    def server(self, reactor: Any) -> Any:
        """What Twisted makes of the endpoint, a socket that systemd handed over checked.

        Raises ValueError.
        """
        by_systemd = self.endpoint.startswith("systemd:")
        try:
            server = serverFromString(reactor, self.endpoint)
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
            why = NOT_HANDED_OVER if by_systemd else " ".join(str(error).split())
            raise ValueError(why) from None
        if by_systemd:
            _check_adopted(server.fileno, server.addressFamily)
        return server

    def factory(self, main: MainFactory, certificate: ServerCertificate | None) -> Any:
        """What to listen with; ``certificate`` is for TLS."""
        factory: Any = main
        if self.tls:
            factory = tls_factory(certificate, factory, is_client=False)
        return FrontEndFactory(factory, main) if self.front_end else factory

    @property
    def transport(self) -> type[EagerServer]:
        """Of an accepted connection."""
        return FrontedServer if self.front_end else EagerServer


def take_few_in_a_turn(port: Any) -> None:
    """Have a listening port of Twisted take no more in one turn than others can wait for.

    It takes a hundred by itself, and more as more come: a burst of one source's
    connections, each to be let in or closed, kept everybody for 0.2 s. After
    each call `numberAccepts` is larger than it was if all were there to be taken.
    """
    read = port.doRead

    def read_some() -> None:
        ends = time.thread_time() + ACCEPT_SECONDS
        port.numberAccepts = ACCEPTS_AT_ONCE
        read()
        while port.numberAccepts > ACCEPTS_AT_ONCE and time.thread_time() < ends:
            port.numberAccepts = ACCEPTS_AT_ONCE
            read()

    port.doRead = read_some


def _check_adopted(descriptor: int, family: int) -> None:
    """Raises ValueError for what is no TCP socket that can be listened on, as the words say."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            kind, is_ip = found.type, found.family in (socket.AF_INET, socket.AF_INET6)
            fits = found.family == family
            try:
                found.getpeername()
                is_connected = True
            except OSError:
                is_connected = False
    except OSError as error:
        raise ValueError(f"{NOT_HANDED_OVER} ({error.strerror})") from None
    if kind != socket.SOCK_STREAM or not is_ip:
        raise ValueError("it is no TCP socket; in proxyservice.socket write ListenStream=6008")
    if is_connected:
        raise ValueError("it is a connection; in proxyservice.socket write Accept=no")
    if not fits:
        name = found.family.name.removeprefix("AF_")
        raise ValueError(f"it is a socket of another domain: write domain={name}")
