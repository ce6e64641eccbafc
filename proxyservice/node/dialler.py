"""Keeps a node connected: which server, when, and when to stop trying.

What an error means is asked of `finality.py`, whose turn it is of `retry.py`.
A relay may be broken or lie: whatever it says costs the node that relay alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyservice.errors import PeerError, ProxyServiceError, UnreachableError
from proxyservice.node.connection import NodeConnection
from proxyservice.node.dial import Server
from proxyservice.node.events import NodeEvents
from proxyservice.node.finality import TREATMENTS, hint_seconds, is_final, is_superseded, kind_of
from proxyservice.node.retry import Retry
from proxyservice.wire import proxyservice_pb2 as pb

SETTLED_SECONDS = 10.0
"""A connection that held its lease for so long was a good one: retries count from 0 again."""

ATTEMPT_SECONDS = 12.0
"""Our own endpoints say earlier what is missing; this is for others, which may wait for ever."""

LEAVING_CONNECTIONS = 4
"""Whose servers are about to stop. One is usual; a relay that says so on each would have more."""

log = Logger()


class Dialler:
    """One connection at a time, made by ``build`` for the server that is its turn.

    Beside it those whose servers are about to stop, until they are closed.
    ``impatient()`` as in `finality.is_final`.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        build: Callable[[Server], NodeConnection],
        give_up: Callable[[ProxyServiceError], None],
        events: NodeEvents,
        clock: Any,
        impatient: Callable[[], bool] = lambda: False,
    ) -> None:
        self._servers = servers
        self._build = build
        self._give_up = give_up
        self._events = events
        self._clock = clock
        self._impatient = impatient
        self._retry = Retry(len(servers))
        self._passed_over: set[int] = set()  # out of impatience
        self._attempt: Deferred[Any] | None = None
        self._timer: Any = None
        self._running = False
        self._connection: NodeConnection | None = None
        self._leaving: OrderedDict[NodeConnection, None] = OrderedDict()
        self._closed: Deferred[None] | None = None

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

    @property
    def _server(self) -> Server:
        return self._servers[self._retry.server]

    def _dial(self) -> None:
        server = self._server
        self._events.connecting(server.name)
        attempt = self._connect(server)
        self._attempt = attempt.addTimeout(ATTEMPT_SECONDS, self._clock)
        attempt.addCallbacks(self._arrived, self._missed)
        attempt.addErrback(lambda failure: log.failure("dialling failed", failure))

    def _connect(self, server: Server) -> Deferred[Any]:
        try:
            return server.endpoint().connect(Factory.forProtocol(lambda: self._begin(server)))
        except Exception:  # an endpoint may be anybody's, and a node must not fall silent for it
            return fail(Failure())

    def _begin(self, server: Server) -> NodeConnection:
        self._connection = self._build(server)
        return self._connection

    def _arrived(self, connection: object) -> None:
        self._attempt = None

    def _missed(self, failure: Failure) -> None:
        self._attempt = None
        self._connection = None
        if self._running:
            error = failure.value
            if not isinstance(error, ProxyServiceError):
                error = UnreachableError(failure.getErrorMessage() or "it cannot be reached")
            self._again(error, held_seconds=None)

    def sent_away(self, hint: pb.Draining, held_seconds: float | None) -> None:
        """The server is about to stop: dial another one, or this one later.

        The connection stays until the server ends it: streams may be open on it.
        """
        connection, self._connection = self._connection, None
        assert connection is not None, "it said so on it"
        self._leaving[connection] = None
        name, now = self._server.name, self._clock.seconds()
        if _is_settled(held_seconds):
            self._retry.settled()
        delay_seconds = self._retry.sent_away(
            now, hint.reconnect_in_ms / 1000, hint.try_for_ms / 1000
        )
        self._dial_later(name, UnreachableError("the relay is about to stop"), delay_seconds)
        if len(self._leaving) > LEAVING_CONNECTIONS:
            next(iter(self._leaving)).close()

    def is_leaving(self, connection: NodeConnection) -> bool:
        """Its server is about to stop, and another connection is or will be there instead."""
        return connection in self._leaving

    def ended(
        self, connection: NodeConnection, error: ProxyServiceError, held_seconds: float | None
    ) -> None:
        """A connection is gone; ``held_seconds`` says how long it had a lease, None: never."""
        was_leaving = connection in self._leaving
        self._leaving.pop(connection, None)
        if not was_leaving:
            self._connection = None
        if self._closed is not None:
            if self._connection is None and not self._leaving:
                closed, self._closed = self._closed, None
                closed.callback(None)
        elif self._running and not was_leaving:
            self._again(error, held_seconds)

    def _again(self, error: ProxyServiceError, held_seconds: float | None) -> None:
        name, now, retry = self._server.name, self._clock.seconds(), self._retry
        impatient = self._impatient()
        if not impatient:
            self._look_again()
        if is_final(error, impatient=impatient):
            if not is_final(error):
                self._passed_over.add(retry.server)
            delay_seconds = retry.gave_up(now)
            if is_superseded(error) or retry.is_hopeless:
                self._running = False
                self._give_up(error)
                return
        else:
            delay_seconds = self._wait_seconds(error, held_seconds, now)
        self._dial_later(name, error, delay_seconds)

    def _look_again(self) -> None:
        """The node had a lease: from now on it has all the time that there is."""
        for server in self._passed_over:
            self._retry.hope_again(server)
        self._passed_over.clear()

    def _wait_seconds(
        self, error: ProxyServiceError, held_seconds: float | None, now: float
    ) -> float:
        if _is_settled(held_seconds):
            self._retry.settled()
        waits, hint = TREATMENTS[kind_of(error)].waits, hint_seconds(error)
        if held_seconds is None or isinstance(error, PeerError):
            return self._retry.failed(waits, now, hint)
        return self._retry.lost(waits, now, hint)

    def _dial_later(self, lost: str, error: ProxyServiceError, delay_seconds: float) -> None:
        """Dial the server whose turn it is then."""
        self._timer = self._clock.callLater(delay_seconds, self._dial)
        self._events.disconnected(lost, error, delay_seconds)


def _is_settled(held_seconds: float | None) -> bool:
    return held_seconds is not None and held_seconds >= SETTLED_SECONDS
