"""The orderly end: nobody new comes in, what is under way finishes, but not for ever.

Each main connection closes itself as soon as none of its visitors is left
(`MainConnection.drain`); here they are told, and waited for.
"""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004 - Twisted's own
from twisted.logger import Logger

from proxyservice.server.factory import MainFactory
from proxyservice.wire import proxyservice_pb2 as pb

RECONNECT_SECONDS = 1.0
"""A service that has nothing to finish is back after this long."""

NODES_PER_SECOND = 1000
"""So many are asked to come back in each second after that (frp #4802: all come at once)."""

TRY_FOR_SECONDS = 60.0
"""Beyond the drain itself: a restart that takes longer is an outage."""

log = Logger()


class Drain:
    """One stop of one service; ``clock`` is the reactor."""

    def __init__(self, clock: Any, factory: MainFactory, drain_seconds: float) -> None:
        self._clock = clock
        self._factory = factory
        self._drain_seconds = drain_seconds

    def begin(self) -> Deferred[None]:
        """Tell every node; fires when no main connection is left, or when the time is up."""
        connections = list(self._factory.connections)
        empty = self._factory.when_empty()
        for connection in connections:
            connection.drain(self._hint(len(connections)))
        waiting = [one for one in connections if one.leases.visitors]
        if waiting:
            log.info(
                "draining: {visitors} visitors of {nodes} nodes may finish, for {seconds:g} s",
                visitors=sum(one.leases.visitors for one in waiting),
                nodes=len(waiting),
                seconds=self._drain_seconds,
            )
        empty.addTimeout(self._drain_seconds, self._clock)
        return empty.addErrback(self._cut)

    def _hint(self, nodes: int) -> pb.Draining:
        """When a node may come back, so that not all of them do at once."""
        jitter_seconds = random.uniform(0.0, nodes / NODES_PER_SECOND)  # noqa: S311 - no secret
        return pb.Draining(
            reconnect_in_ms=int((RECONNECT_SECONDS + jitter_seconds) * 1000),
            try_for_ms=int((self._drain_seconds + TRY_FOR_SECONDS) * 1000),
        )

    def _cut(self, failure: Any) -> None:
        failure.trap(TimeoutError)
        visitors = sum(one.leases.visitors for one in self._factory.connections)
        if visitors:
            log.warn(
                "{visitors} visitors were not finished after {seconds:g} s; they are cut",
                visitors=visitors,
                seconds=self._drain_seconds,
            )
