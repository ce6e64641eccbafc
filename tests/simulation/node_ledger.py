"""What a node owes its user, whatever relays say: compared with what it does after each event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxyservice.node.dialler import LEAVING_CONNECTIONS
from proxyservice.node.finality import LONGEST_WAIT_SECONDS
from tests.simulation.dialled import SOURCE
from tests.simulation.network import Socket

if TYPE_CHECKING:
    from tests.simulation.node_world import NodeWorld

TURNS_SECONDS = 150.0
"""The longest wait for a relay that was gone, 20 s, and a turn of each of three bad relays."""

DATES_SECONDS = 300.0
"""The longest wait for one whose certificate was not yet valid."""

MOST_SOCKETS = LEAVING_CONNECTIONS + 8
"""Beside those whose relays stop: the present one, one that closes, and six addresses dialled."""

MOST_CALLS = 400
MOST_HELD_BYTES = 4 << 20


class NodeLedger:
    def __init__(self, world: NodeWorld) -> None:
        self._world = world
        self.is_stopping = False
        self._without_since = 0.0
        self._refused: set[str] = set()

    # ------------------------------------------------------ after each event

    def observe(self) -> None:
        if self.is_stopping or not self._world.node.running:
            return
        dialler: Any = self._world.node._dialler
        timer = dialler._timer
        waits = timer is not None and timer.active()
        does = dialler._attempt is not None or dialler._connection is not None or waits
        assert does, "the node is silent: no connection, no attempt, no timer"
        assert self._world.node.error is None, "the node gave up, though a relay is good"
        assert len(dialler._leaving) <= LEAVING_CONNECTIONS + 1, "connections without end"
        self._check_held(dialler._connection)
        self._check_served_in_time()

    def _check_held(self, connection: Any) -> None:
        if connection is None:
            return
        assert connection._intake.held_bytes <= MOST_HELD_BYTES, "it keeps what a relay says"
        assert len(connection._requests._pending) <= 2 * len(self._world.node._leases._wanted) + 2

    def _check_served_in_time(self) -> None:
        world = self._world
        now, good = world.timeline.now, world.good
        leases = world.node._leases._wanted.values()
        if any(one.granted for one in leases):
            self._without_since = now
        if good.up_since is None or good.seems_too_new:
            return
        since = max(self._without_since, good.up_since, world.clock_right_at)
        waits, most = now - since, TURNS_SECONDS + DATES_SECONDS * good.has_dates
        assert waits <= most, f"{waits:.0f} s without a lease, and {good.name} is there"

    def told(self, what: str, *words: Any) -> None:
        if what in ("waits", "asks later"):
            assert 0 <= words[-1] <= LONGEST_WAIT_SECONDS, f"the node waits {words[-1]} s"
        elif what == "is refused":
            self._refused.add(words[0])
        elif what == "dials":
            sockets = len(self._sockets())
            assert sockets <= MOST_SOCKETS, f"{sockets} connections"
            calls = len(self._world.reactor.getDelayedCalls())
            assert calls <= MOST_CALLS, f"{calls} calls are delayed"

    def _sockets(self) -> list[Socket]:
        sockets = self._world.network.sockets.values()
        return [one for one in sockets if isinstance(one, Socket) and one.here[0] == SOURCE]

    # ---------------------------------------------------------------- its end

    def check_served(self) -> None:
        """The good relay has been alone for long enough: what was not refused is there."""
        at = [one for one in self._world.good.connections if not one.over]
        assert len(at) == 1, f"{len(at)} connections with the relay that is left"
        wanted = {"", "calm", "wild", "rude"} - self._refused
        assert set(at[0].granted) == wanted, f"{wanted} should be leased, {set(at[0].granted)} are"

    def stops(self) -> None:
        self.is_stopping = True

    def check_nothing_is_left(self) -> None:
        left = [one.args[0] for one in self._world.reactor.getDelayedCalls()]
        assert not left, f"delayed calls are left: {left}"
        assert not self._world.reactor.descriptors, "descriptors are left"
        assert not self._sockets(), "sockets are left"
