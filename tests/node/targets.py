"""Targets that hear a visitor to its end and then answer, of every kind that can be exposed."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from OpenSSL import SSL

from tests.server.certificates import Authority

ANSWER_BYTES = 100_000


def answer_to(said: bytes) -> bytes:
    """What a target says to so many bytes."""
    return hashlib.sha256(said).hexdigest().encode() + b"z" * ANSWER_BYTES


class Peer:
    """The target's side of one connection, TLS or not: both directions end one by one."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.is_tls = isinstance(connection, SSL.Connection)

    def read_all(self) -> tuple[bytes, str]:
        """Until the end, and how it ended: `in order`, or the error."""
        parts: list[bytes] = []
        try:
            while data := self.connection.recv(65536):
                parts.append(data)
        except SSL.ZeroReturnError:
            pass
        except (OSError, SSL.Error) as error:
            return b"".join(parts), repr(error)
        return b"".join(parts), "in order"

    def end(self) -> None:
        """Say that no more is sent."""
        if self.is_tls:
            self.connection.shutdown()
        else:
            self.connection.shutdown(socket.SHUT_WR)


def digest(peer: Peer) -> object:
    """Hear everything, then answer and end."""
    said, how = peer.read_all()
    peer.connection.sendall(answer_to(said))
    peer.end()
    return len(said), how


def end_first(peer: Peer) -> object:
    """Answer and end at once; hear everything after that."""
    peer.connection.sendall(answer_to(b""))
    peer.end()
    said, how = peer.read_all()
    return len(said), how


def cut(peer: Peer) -> object:
    """Answer, and go without a word (of TLS)."""
    peer.connection.sendall(answer_to(b""))
    (peer.connection.sock_shutdown if peer.is_tls else peer.connection.shutdown)(socket.SHUT_WR)
    return peer.read_all()[1]


class Target:
    """Serves one visitor after the other; `seen` gets what ``serve`` returned for each."""

    def __init__(
        self, listening: socket.socket, serve: Callable[[Peer], object], tls: Any = None
    ) -> None:
        self._listening = listening
        self._serve = serve
        self._tls = tls
        self.seen: SimpleQueue[object] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                connection: Any = self._listening.accept()[0]
                with connection:
                    connection.settimeout(None)
                    self.seen.put(self._one(connection))

    def _one(self, connection: Any) -> object:
        if self._tls is None:
            return self._serve(Peer(connection))
        secured = SSL.Connection(self._tls, connection)
        secured.set_accept_state()
        try:
            secured.do_handshake()
            return self._serve(Peer(secured))
        except (OSError, SSL.Error) as error:
            return repr(error)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def tls_context(directory: Path, newest: int) -> SSL.Context:
    """Of a target at `localhost`, for who trusts the authorities in ``directory``."""
    certificate, key, _ = Authority(directory, "ca").issue("target", host="localhost")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(newest)
    context.use_certificate_file(str(certificate))
    context.use_privatekey_file(str(key))
    return context
