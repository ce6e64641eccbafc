"""Whoever is let in finds a descriptor for a proxy port, however late it asks."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest
from twisted.internet.address import IPv4Address
from twisted.logger import capturedLogs as capture_logs
from twisted.logger import formatEvent

from proxyservice.errors import StartError
from proxyservice.server.descriptors import Descriptors
from proxyservice.wire.envelope import Opcode
from tests.leases.harness import StoreThread, store_thread
from tests.server.memory import MemoryRelay, RawNode

LIMIT = 256
PORTS = range(20000, 20200)


@pytest.fixture
def thread() -> Iterator[StoreThread]:
    """The store's; each write waits for its turn when the test says so."""
    with store_thread() as thread:
        yield thread


@pytest.fixture
def relay(thread: StoreThread, monkeypatch: pytest.MonkeyPatch) -> MemoryRelay:
    """It may have so many descriptors, and more ports than that."""
    relay = MemoryRelay(ports=PORTS)
    relay.factory.descriptors = Descriptors(lambda: relay.factory.sockets + bound(relay))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (LIMIT, LIMIT))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: None)
    relay.factory.descriptors.raise_limit()
    return relay


def bound(relay: MemoryRelay) -> int:
    """Proxy ports that listen."""
    return len(relay.run.sockets.bound)


def let_in(relay: MemoryRelay) -> list[RawNode]:
    """Those of a crowd that are not turned away at once; none has asked for anything yet."""
    nodes = []
    for number in range(LIMIT):
        protocol = relay.factory.buildProtocol(None)
        if protocol is not None:
            nodes.append(RawNode(relay, number + 1))
            relay._joined(nodes[-1], protocol)
    return nodes


def test_a_crowd_that_connects_before_it_asks_is_served_to_the_last(
    relay: MemoryRelay, thread: StoreThread
) -> None:
    nodes = let_in(relay)
    assert len(nodes) == (LIMIT - 32) // 2
    thread.waits = True
    for node in nodes:
        node.say(Opcode.PROXY_REQUEST)
    assert relay.factory.buildProtocol(None) is None, "all is taken while the store is busy"
    thread.all_turns()
    relay.pump()
    for node in nodes:
        assert node.take(Opcode.PROXY_RESPONSE).payload.proxy_address
    assert relay.factory.sockets + bound(relay) == LIMIT - 32


def test_the_operator_is_told_why_a_node_is_not_taken(relay: MemoryRelay) -> None:
    let_in(relay)
    with capture_logs() as events:
        assert relay.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5)) is None
    told = [formatEvent(event) for event in events]
    (line,) = told
    assert line.startswith("took no connection of 192.0.2.1: no descriptor is left for it; raise")


@pytest.mark.parametrize("limit", [20, 66])
def test_where_no_node_could_be_served_there_is_no_start(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: None)
    with pytest.raises(StartError, match=f"^{limit} descriptors are too few .*, 67 are the least"):
        Descriptors(lambda: 0).raise_limit()


def test_with_the_least_that_is_named_one_node_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (67, 67))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: None)
    open_sockets = [0]
    descriptors = Descriptors(lambda: open_sockets[0])
    descriptors.raise_limit()
    assert descriptors.nodes == 1
    assert descriptors.room_for_node
    open_sockets[0] = 2  # its main connection and its port
    assert descriptors.room_for_visitor


def test_a_further_port_takes_nothing_that_is_promised_to_others(relay: MemoryRelay) -> None:
    first, *others = let_in(relay)
    first.prove()
    first.lease("first")
    first.ask("second", nonce=2)
    assert "no descriptor left" in first.heard()[-1].payload.reason
    for node in others:
        node.transport.abortConnection()
    relay.pump()
    assert first.lease("second", nonce=3) != first.lease("first", nonce=4)


def test_visitors_leave_what_is_promised(relay: MemoryRelay) -> None:
    nodes = let_in(relay)
    for leave, room in ((nodes[:10], False), (nodes[10:40], True)):
        for node in leave:
            node.transport.abortConnection()
        relay.pump()
        assert relay.factory.descriptors.room_for_visitor == room
