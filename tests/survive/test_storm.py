"""Threat T25: the relay is killed and every node is back soon, at the port that it had."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import pytest

from tests.survive.conftest import FULL, Relays, scaled
from tests.survive.crowd import Crowd

pytestmark = [pytest.mark.process, pytest.mark.heavy]

NODES = scaled(5_000, 400)
PORTS = range(20_000, 20_000 + NODES + 50)  # some may be busy
BACK_SECONDS = 30.0
SPARE_DESCRIPTORS = 200


@pytest.fixture
def many() -> Iterator[None]:
    """This process may have as many sockets as there are nodes, and the relay twice as many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2 * NODES + SPARE_DESCRIPTORS:
        pytest.skip(f"too few descriptors for {NODES} nodes")
    resource.setrlimit(resource.RLIMIT_NOFILE, (NODES + SPARE_DESCRIPTORS, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many")
def test_t25_all_nodes_come_back_at_once_after_a_restart(relays: Relays) -> None:
    relay = relays(ports=PORTS)
    with Crowd(relay.port) as crowd:
        crowd.grow(NODES)
        crowd.until(lambda: crowd.complete, 120)
        before = dict(crowd.ports)
        assert len(set(before.values())) == NODES
        relay.kill()
        relay.again()
        began = time.monotonic()
        crowd.last_words()
        assert not crowd.leased, "all of them have lost their connection"
        crowd.until(lambda: crowd.complete, 4 * BACK_SECONDS)
        seconds = time.monotonic() - began
        print(f"{NODES} nodes were back after {seconds:.1f} s")
        assert crowd.moved == []
        assert crowd.ports == before
    if FULL:  # by default other tests may run beside it
        assert seconds < BACK_SECONDS
