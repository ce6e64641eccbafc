"""Threat T23: kill -9 of the real service under load; no acknowledged lease is lost."""

from __future__ import annotations

import random
import time

import pytest

from proxyservice.leases.reading import StoredLeases
from proxyservice.leases.store import sqlite_url
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.attacks.kit import application_frame, sender
from tests.node.processes import Relay
from tests.survive.conftest import Relays, scaled
from tests.survive.crowd import Crowd

pytestmark = [pytest.mark.process, pytest.mark.heavy]

KILLS = scaled(200, 8)
NEW_NODES = 4
"""With each start; they lease while the others come back."""

PORTS = range(22_000, 22_000 + (KILLS + 1) * NEW_NODES + 50)
LIVES_SECONDS = (0.0, 1.2)
"""After the start; in half of that time all are back, so that the rest is transfers alone."""

FRAME = application_frame(b"x" * 20_000)


def stored(relay: Relay) -> dict[bytes, int]:
    """What is on disk, by the node's key."""
    leases = StoredLeases(
        sqlite_url(relay.directory / "state" / "leases.sqlite"), DEFAULT_NETWORK_ID
    )
    try:
        rows = leases.listing()[1]
    finally:
        leases.close()
    return {row.owner.identity.net_key: row.port for row in rows if row.owner is not None}


def test_t23_killed_while_nodes_lease_and_visitors_talk(relays: Relays) -> None:
    relay = relays(ports=PORTS)
    pick = random.Random(23)
    with Crowd(relay.port) as crowd:
        for number in range(KILLS):
            crowd.grow(NEW_NODES)
            if number % 10 == 0:
                crowd.until(lambda: crowd.complete, 60)
            until = time.monotonic() + pick.uniform(*LIVES_SECONDS)
            while time.monotonic() < until:
                crowd.turn()
                if crowd.leased:
                    crowd.visit(pick.choice(sorted(crowd.leased)), FRAME)
            relay.kill()
            crowd.last_words()
            acknowledged = {sender(node).net_key: port for node, port in crowd.ports.items()}
            assert stored(relay).items() >= acknowledged.items()
            relay.again()
        crowd.until(lambda: crowd.complete, 60)
        assert len(crowd) == KILLS * NEW_NODES
        assert crowd.moved == []
        assert crowd.relayed_bytes > KILLS * len(FRAME)
    print(f"{KILLS} kills, {len(crowd)} leases, {crowd.relayed_bytes} bytes relayed meanwhile")
