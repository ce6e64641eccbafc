"""The service's own parts agree with each other: table, sockets, holders, connections."""

from __future__ import annotations

from typing import Any

from proxyservice.leases.lease import BOUND_STATES, LeaseState, Owner
from tests.simulation.relay import Relay


def check_sockets(relay: Relay, listening: set[int], port_range: range) -> None:
    """Bound if and only if live or held; every port of the range is in one state."""
    table = relay.table
    bound = {lease.port for lease in table if lease.state in BOUND_STATES}
    listening = listening & set(port_range)
    stopping = relay.stopped is not None and listening <= bound
    assert listening == bound or stopping, f"{listening} listen, {bound} are live or held"
    counts = table.counts()
    assert sum(counts.values()) == len(port_range), counts
    counts["parked"] = table.parked
    for state in LeaseState:
        assert counts[state.value] == sum(lease.state is state for lease in table)


def check_holders(relay: Relay) -> None:
    """What a connection was granted is its own, in the current generation."""
    holders: dict[Owner, Any] = relay.registry._holders
    live = {lease.owner for lease in relay.table if lease.state is LeaseState.LIVE}
    assert set(holders) == live, "held by a connection if and only if live"
    for connection in relay.factory.connections:
        if connection.closing or connection._refused:
            continue
        for holding in connection.leases._holdings.values():
            if holding.grant is None:
                continue
            lease = relay.table.of_owner(holding.owner)
            assert lease is not None, "a connection has what is not there"
            current = lease.state is LeaseState.LIVE and holders[holding.owner]
            assert current is connection.leases, "a connection has what is another's"
            assert lease.generation == holding.grant.generation, "a past generation is held"
