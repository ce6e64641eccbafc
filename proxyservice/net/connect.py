"""Dial an IP address or a unix socket without ceremony: one socket, one wait for it, one deadline.

Twisted's own client machinery costs more than everything else that happens to
a short-lived visitor (a connector, a resolver, two delayed calls). On loopback
the kernel has the connection ready as soon as `connect` returns, though it says
"in progress": asked again it says so, and the dial needs no turn of the reactor.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IWriteDescriptor
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from proxyservice.net.eager import EagerSocket, EagerUnixSocket
from proxyservice.net.keepalive import VANISHED_SECONDS, configure_visitor

CONNECT_SECONDS = 10.0
"""A host that answers at all has answered by then, two lost packets included."""

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.005, 0.1
"""A unix socket whose queue is full says so at once, where TCP would let the dialler wait: it is
asked again after the one, doubling to the other, for as long as a TCP connect would take."""

_CONNECTED = (0, errno.EISCONN)
_IN_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK)  # the second is what Windows says
_OWN_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, slots=True)
class DialFailure:
    """Why nobody was reached."""

    reason: str
    """For people."""
    is_ours: bool = False
    """This process or machine has no room (descriptors, memory, ports): it says nothing of the
    target, and whoever waits must not take it for an answer."""


def dial_failure(code: int) -> DialFailure:
    """From the number of an OSError."""
    if code == errno.EAGAIN:
        return DialFailure("its queue of connections is full")
    return DialFailure(os.strerror(code), code in _OWN_RESOURCES)


def socket_address(host: str, port: int) -> Any:
    """What `connect` takes for an IP address; a zone (`fe80::1%eth0`) becomes its number.

    Asks no name server. Raises socket.gaierror for a zone that no interface has.
    """
    if ":" not in host:
        return host, port
    if "%" not in host:
        return host, port, 0, 0
    asks_nobody = socket.AI_NUMERICHOST
    found = socket.getaddrinfo(host, port, socket.AF_INET6, socket.SOCK_STREAM, 0, asks_nobody)
    return found[0][4]


@implementer(IWriteDescriptor)
class Dial:
    """One attempt; exactly one of ``build()`` (the protocol) and ``failed(why)`` is called.

    ``where`` is an IP address, with a zone or without, and a port, or the path of a
    unix socket. ``connected()`` follows when the protocol has its transport.
    """

    def __init__(
        self,
        reactor: Any,
        where: tuple[str, int] | str,
        build: Callable[[], Protocol],
        failed: Callable[[DialFailure], None],
        connected: Callable[[], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._is_unix = isinstance(where, str)
        self._address: Any = where
        self._connected = connected
        self._build = build
        self._failed = failed
        self._timer: Any = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._until = 0.0
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Begin; the outcome may be told before this returns."""
        try:
            if not self._is_unix:
                self._address = socket_address(*self._address)
            self._socket = self._new_socket()
        except socket.gaierror:
            zone = self._address[0].partition("%")[2]
            self._failed(DialFailure(f"there is no interface {zone!r}"))
            return
        except OSError as error:
            self._fail(error.errno or 0)
            return
        self._until = self._reactor.seconds() + CONNECT_SECONDS
        self._connect(self._socket)

    def _new_socket(self) -> socket.socket:
        if self._is_unix:
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        if not self._is_unix:
            configure_visitor(made)
        return made

    def _connect(self, dialled: socket.socket) -> None:
        try:
            code = dialled.connect_ex(self._address)
            if code in _IN_PROGRESS and not self._is_unix:
                code = dialled.connect_ex(self._address)
        except OSError as error:  # a path that is too long
            self._fail(error.errno or errno.ENAMETOOLONG)
            return
        if code in _CONNECTED:
            self._succeed(dialled)
        elif self._is_unix and code == errno.EAGAIN and self._reactor.seconds() < self._until:
            self._timer = self._reactor.callLater(self._retry_seconds, self._connect, dialled)
            self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS)
        elif code == errno.EALREADY or (code in _IN_PROGRESS and not self._is_unix):
            self._timer = self._reactor.callLater(CONNECT_SECONDS, self._fail, errno.ETIMEDOUT)
            self._reactor.addWriter(self)
        else:
            self._fail(code)

    def cancel(self) -> None:
        """Nobody waits any more; neither outcome is told."""
        self._let_go()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        return "Dial"

    def doWrite(self) -> None:
        """The kernel has an answer."""
        dialled = self._socket
        if dialled is None:
            return
        code = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(code)
        else:
            self._succeed(dialled)

    def connectionLost(self, reason: object) -> None:
        """Twisted's word for: an error stands on the socket, or the reactor stops."""
        if self._socket is not None:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._fail(code or errno.ECONNABORTED)

    def _succeed(self, dialled: socket.socket) -> None:
        self._let_go()
        self._socket = None
        protocol = self._build()
        kind = EagerUnixSocket if self._is_unix else EagerSocket
        transport = kind(dialled, protocol, self._address, self._reactor)
        transport.end_when_vanished(VANISHED_SECONDS)
        protocol.makeConnection(transport)
        if self._connected is not None:
            self._connected()

    def _fail(self, code: int) -> None:
        self.cancel()
        self._failed(dial_failure(code))

    def _let_go(self) -> None:
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None
            self._reactor.removeWriter(self)
