"""Proxy ports: the listening sockets of leases, and what happens to whoever connects.

`ProxyPorts` binds and unbinds as the registry says (it is the registry's
`PortBinder`) and hands each accepted visitor to whoever holds the port. It
knows neither leases nor messages.

The accept loop is our own and not Twisted's `Port`: there are thousands of
these sockets, so each has to be small; and running out of descriptors must
stop accepting for a moment instead of spinning or throwing visitors away.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.net import foreign
from proxyservice.net.addresses import canonical
from proxyservice.net.eager import EagerSocket
from proxyservice.net.keepalive import VANISHED_SECONDS, configure_visitor
from proxyservice.net.linger import reset_at_close

BACKLOG = 4096
"""Connections the kernel keeps for us; Twisted's 50 loses visitors in a burst (frp #4802)."""

ACCEPT_SECONDS = 0.0015
"""Of one turn and one port: some twenty visitors, 0.07 ms each; more would make others wait."""

PAUSE_WITHOUT_DESCRIPTORS_SECONDS = 0.5
"""How long a port rests when the process has no descriptor left."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_VISITOR_IS_GONE = {errno.ECONNABORTED, errno.EPROTO, errno.EINTR}

Accept = Callable[[int, str, int], "Protocol | None"]
"""(port, visitor's canonical host, visitor's port) -> its protocol, or None to turn it away."""

log = Logger()


class ProxyPorts:
    """The bound proxy ports of one service.

    ``interface`` is the address to listen on; empty means every address, IPv6
    and IPv4 on one socket where the host has IPv6. ``backlog`` is how many
    connections the kernel keeps for each. A visitor whose TCP does not answer for
    ``vanished_seconds`` is gone.
    """

    def __init__(
        self,
        reactor: Any,
        interface: str,
        accept: Accept,
        backlog: int = BACKLOG,
        vanished_seconds: float = VANISHED_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._backlog = backlog
        self._vanished_seconds = vanished_seconds
        self._family, self._interface = _family_and_address(interface)
        self._accept = accept
        self._ports: dict[int, _ProxyPort] = {}

    def __len__(self) -> int:
        return len(self._ports)

    def bind(self, port: int) -> None:
        """Listen on `port`; already bound is fine. Raises OSError when the port cannot be had."""
        if port not in self._ports:
            bound = _listening_socket(
                self._family, self._interface, port, self._backlog, self._vanished_seconds
            )
            self._ports[port] = _ProxyPort(
                self._reactor, bound, port, self._accept, self._vanished_seconds
            )

    def unbind(self, port: int) -> None:
        """Stop listening on `port` at once; unknown ports are ignored."""
        bound = self._ports.pop(port, None)
        if bound is not None:
            bound.close()

    def close(self) -> None:
        """Stop listening everywhere."""
        for port in list(self._ports):
            self.unbind(port)


def _family_and_address(interface: str) -> tuple[socket.AddressFamily, str]:
    if interface:
        return (socket.AF_INET6 if ":" in interface else socket.AF_INET), interface
    return (socket.AF_INET6, "::") if _has_ipv6() else (socket.AF_INET, "0.0.0.0")  # noqa: S104 - public by purpose


def _has_ipv6() -> bool:
    try:
        _listening_socket(socket.AF_INET6, "::", 0).close()
    except OSError:
        return False
    return True


def _listening_socket(
    family: socket.AddressFamily,
    address: str,
    port: int,
    backlog: int = BACKLOG,
    vanished_seconds: float = VANISHED_SECONDS,
) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and address == "::":
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        configure_visitor(bound, vanished_seconds)  # whoever is accepted inherits it
        bound.bind((address, port))
        bound.listen(backlog)
    except OSError:
        bound.close()
        raise
    return bound


@implementer(IReadDescriptor)
class _ProxyPort:
    """One listening socket; about 200 bytes of Python beside the kernel's."""

    __slots__ = ("_accept", "_reactor", "_resume", "_socket", "_vanished_seconds", "port")

    def __init__(
        self,
        reactor: Any,
        bound: socket.socket,
        port: int,
        accept: Accept,
        vanished_seconds: float,
    ) -> None:
        self._reactor = reactor
        self._socket = bound
        self._accept = accept
        self._vanished_seconds = vanished_seconds
        self._resume: Any = None
        self.port = port
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "ProxyPort"

    def doRead(self) -> None:
        """Take what is waiting, for a bounded time in one turn."""
        ends = time.thread_time() + ACCEPT_SECONDS
        while time.thread_time() < ends:
            try:
                accepted, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._rest(error)
                    return
                if error.errno in _VISITOR_IS_GONE:
                    continue
                raise
            self._admit(accepted, address)  # whatever happens to one, the port takes the next

    def _admit(self, accepted: socket.socket, address: tuple[Any, ...]) -> None:
        ours = self.port, canonical(address[0]), address[1]
        protocol = foreign.call("letting a visitor in", None, self._accept, *ours)
        if protocol is None:
            reset(accepted)
            return
        accepted.setblocking(False)
        transport = EagerSocket(accepted, protocol, address, self._reactor)
        transport.end_when_vanished(self._vanished_seconds)

        def failed(failure: Failure) -> None:
            transport.abortConnection()

        foreign.call("a visitor's beginning", failed, protocol.makeConnection, transport)

    def _rest(self, error: OSError) -> None:
        log.warn("proxy port {port} pauses accepting: {error}", port=self.port, error=error)
        self._reactor.removeReader(self)
        self._resume = self._reactor.callLater(PAUSE_WITHOUT_DESCRIPTORS_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._resume = None
        self._reactor.addReader(self)

    def connectionLost(self, reason: Any) -> None:
        """Twisted's word for: the reactor stops, or the descriptor broke."""
        self.close()

    def close(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        else:
            self._reactor.removeReader(self)
        self._socket.close()


def reset(unwanted: socket.socket) -> None:
    """Close with RST, so that the visitor sees a refusal and not an empty answer."""
    reset_at_close(unwanted)
    unwanted.close()
