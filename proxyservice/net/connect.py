"""Dial an IP address without ceremony: one socket, one wait for it, one deadline.

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
from typing import Any

from twisted.internet.interfaces import IWriteDescriptor
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from proxyservice.net.eager import EagerSocket
from proxyservice.net.keepalive import configure_visitor

CONNECT_SECONDS = 10.0
"""A host that answers at all has answered by then, two lost packets included."""

_CONNECTED = (0, errno.EISCONN)


@implementer(IWriteDescriptor)
class Dial:
    """One attempt; exactly one of ``build()`` (the protocol) and ``failed(reason)`` is called."""

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        build: Callable[[], Protocol],
        failed: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._address: Any = (host, port, 0, 0) if ":" in host else (host, port)
        self._build = build
        self._failed = failed
        self._timer: Any = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Begin; the outcome may be told before this returns."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        try:
            dialled = self._socket = socket.socket(family, socket.SOCK_STREAM)
            dialled.setblocking(False)
            configure_visitor(dialled)
            code = dialled.connect_ex(self._address)
            if code == errno.EINPROGRESS:
                code = dialled.connect_ex(self._address)
        except OSError as error:
            self._fail(error.errno or 0)
            return
        if code in _CONNECTED:
            self._succeed(dialled)
        elif code == errno.EALREADY:
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
        transport = EagerSocket(dialled, protocol, self._address, self._reactor)
        protocol.makeConnection(transport)

    def _fail(self, code: int) -> None:
        self.cancel()
        self._failed(os.strerror(code))

    def _let_go(self) -> None:
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None
            self._reactor.removeWriter(self)
