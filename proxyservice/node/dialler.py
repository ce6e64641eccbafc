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

RESTART_DELAY_SECONDS = 2.0
"""Longest delay between attempts while a server that said so restarts."""

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
    """One connection at a time, made by ``build`` for the server that is its turn.

    Beside it those whose servers are about to stop, until they are closed.
    """

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
        self._leaving: set[NodeConnection] = set()
        self._closed: Deferred[None] | None = None
        self._back_at: dict[str, float] = {}  # when a server that stopped wants to be dialled
        self._restarts_until = 0.0  # until then one of them is worth being asked often

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
        open_ones = [*self._leaving, *filter(None, [self._connection])]
        if open_ones:
            self._closed = closed
        else:
            closed.callback(None)
        for connection in open_ones:
            connection.close()
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

    def sent_away(self, hint: pb.Draining, held_seconds: float | None) -> None:
        """The server is about to stop: dial another one, or this one later.

        The connection stays until the server ends it: streams may be open on it.
        """
        connection, self._connection = self._connection, None
        assert connection is not None, "it said so on it"
        self._leaving.add(connection)
        now, server = self._clock.seconds(), self._servers[self._retry.server].name
        self._back_at[server] = now + hint.reconnect_in_ms / 1000
        self._restarts_until = now + hint.try_for_ms / 1000
        settled = held_seconds is not None and held_seconds >= SETTLED_SECONDS
        delay_seconds = self._retry.sent_away(settled=settled)
        self._dial_later(server, UnreachableError("the relay is about to stop"), delay_seconds)

    def is_leaving(self, connection: NodeConnection) -> bool:
        """Its server is about to stop, and another connection is or will be there instead."""
        return connection in self._leaving

    def ended(
        self, connection: NodeConnection, error: ProxyServiceError, held_seconds: float | None
    ) -> None:
        """A connection is gone; ``held_seconds`` says how long it had a lease, None: never."""
        was_leaving = connection in self._leaving
        self._leaving.discard(connection)
        if not was_leaving:
            self._connection = None
        if self._closed is not None:
            if self._connection is None and not self._leaving:
                closed, self._closed = self._closed, None
                closed.callback(None)
        elif self._running and not was_leaving:
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
        if held_seconds is not None:
            delay_seconds = self._retry.lost(settled=held_seconds >= SETTLED_SECONDS)
        else:
            delay_seconds = self._retry.failed()
        self._dial_later(server, error, max(delay_seconds, _hint_seconds(error)))

    def _dial_later(self, lost: str, error: ProxyServiceError, delay_seconds: float) -> None:
        """Dial the server whose turn it is, or the next of use, not before it wants to be."""
        while self._servers[self._retry.server].name in self._hopeless:
            self._retry.skip()
        now = self._clock.seconds()
        if now < self._restarts_until:
            delay_seconds = min(delay_seconds, RESTART_DELAY_SECONDS)
        back_at = self._back_at.get(self._servers[self._retry.server].name, now)
        delay_seconds = max(delay_seconds, back_at - now)
        self._events.disconnected(lost, error, delay_seconds)
        self._timer = self._clock.callLater(delay_seconds, self._dial)


def _is_superseded(error: ProxyServiceError) -> bool:
    return isinstance(error, RefusedError) and error.code == pb.REFUSAL_SUPERSEDED


def is_final(error: ProxyServiceError) -> bool:
    """Whether the same server would say the same again."""
    if isinstance(error, RefusedError):
        return error.code in FINAL_FOR_SERVER or _is_superseded(error)
    return isinstance(error, (UntrustedError, StartError))


def _hint_seconds(error: ProxyServiceError) -> float:
    return error.retry_after_seconds if isinstance(error, RefusedError) else 0.0
