"""Keeps a node connected: which server, when, and when to stop trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyservice.errors import (
    ProxyServiceError,
    RefusedError,
    StartError,
    UnreachableError,
    UntrustedError,
)
from proxyservice.node.connection import NodeConnection
from proxyservice.node.dial import Server
from proxyservice.node.events import NodeEvents
from proxyservice.node.retry import Retry
from proxyservice.wire import proxyservice_pb2 as pb

SETTLED_SECONDS = 10.0
"""A connection that held its lease for so long was a good one: retries count from 0 again."""

CONNECT_SECONDS = 10.0
"""A host that answers at all has answered by then, two lost packets included."""

FINAL_FOR_SERVER = frozenset(
    {
        pb.REFUSAL_MALFORMED,
        pb.REFUSAL_UNSUPPORTED,
        pb.REFUSAL_UNAUTHENTICATED,
        pb.REFUSAL_DENIED,
    }
)
"""Refusals that the same server would repeat (docs/protocol.md, "Refusals")."""

log = Logger()


class Dialler:
    """One connection at a time, made by ``build`` for the server that is its turn."""

    def __init__(
        self,
        servers: Sequence[Server],
        build: Callable[[Server], NodeConnection],
        give_up: Callable[[ProxyServiceError], None],
        events: NodeEvents,
        clock: Any,
    ) -> None:
        self._servers = servers
        self._build = build
        self._give_up = give_up
        self._events = events
        self._clock = clock
        self._retry = Retry(len(servers))
        self._hopeless: dict[str, ProxyServiceError] = {}
        self._attempt: Deferred[Any] | None = None
        self._timer: Any = None
        self._running = False
        self._connection: NodeConnection | None = None
        self._closed: Deferred[None] | None = None
        self.not_before_seconds = 0.0
        """A server that is going away named this delay for the next attempt."""

    def start(self) -> None:
        """Dial the first server."""
        self._running = True
        self._dial()

    def stop(self) -> Deferred[None]:
        """Dial no more and close what is open; fires when it is closed."""
        self._running = False
        closed: Deferred[None] = Deferred()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        if self._connection is None:
            closed.callback(None)
        else:
            self._closed = closed
            self._connection.close()
        return closed

    def _dial(self) -> None:
        server = self._servers[self._retry.server]
        self._events.connecting(server.name)
        attempt = server.endpoint().connect(Factory.forProtocol(lambda: self._begin(server)))
        self._attempt = attempt.addTimeout(CONNECT_SECONDS, self._clock)
        attempt.addCallbacks(self._arrived, self._missed, (), {}, (server,), {})
        attempt.addErrback(lambda failure: log.failure("dialling failed", failure))

    def _begin(self, server: Server) -> NodeConnection:
        self._connection = self._build(server)
        return self._connection

    def _arrived(self, connection: object) -> None:
        self._attempt = None

    def _missed(self, failure: Failure, server: Server) -> None:
        self._attempt = None
        self._connection = None
        if self._running:
            why = failure.getErrorMessage() or "cannot be reached"
            self._again(UnreachableError(why), held_seconds=None)

    def ended(self, error: ProxyServiceError, held_seconds: float | None) -> None:
        """The connection is gone; ``held_seconds`` says how long it had a lease, None: never."""
        self._connection = None
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)
        elif self._running:
            self._again(error, held_seconds)

    def _again(self, error: ProxyServiceError, held_seconds: float | None) -> None:
        server = self._servers[self._retry.server].name
        if is_final(error):
            self._hopeless[server] = error
            if _is_superseded(error) or all(one.name in self._hopeless for one in self._servers):
                self._running = False
                self._give_up(error)
                return
            held_seconds = None
        delay_seconds = max(self._delay(held_seconds), _hint_seconds(error))
        delay_seconds = max(delay_seconds, self.not_before_seconds)
        self.not_before_seconds = 0.0
        self._events.disconnected(server, error, delay_seconds)
        self._timer = self._clock.callLater(delay_seconds, self._dial)

    def _delay(self, held_seconds: float | None) -> float:
        if held_seconds is not None and not self.not_before_seconds:
            return self._retry.lost(settled=held_seconds >= SETTLED_SECONDS)
        delay_seconds = self._retry.failed()
        while self._servers[self._retry.server].name in self._hopeless:
            self._retry.skip()
        return delay_seconds


def _is_superseded(error: ProxyServiceError) -> bool:
    return isinstance(error, RefusedError) and error.code == pb.REFUSAL_SUPERSEDED


def is_final(error: ProxyServiceError) -> bool:
    """Whether the same server would say the same again."""
    if isinstance(error, RefusedError):
        return error.code in FINAL_FOR_SERVER or _is_superseded(error)
    return isinstance(error, (UntrustedError, StartError))


def _hint_seconds(error: ProxyServiceError) -> float:
    return error.retry_after_seconds if isinstance(error, RefusedError) else 0.0
