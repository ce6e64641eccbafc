"""What a node does while its lease is still being stored: it leaves, or wants it no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.leases.harness import DISK_FULL, StoreThread, store_thread
from tests.server.memory import MemoryRelay, RawNode


@pytest.fixture
def thread() -> Iterator[StoreThread]:
    with store_thread() as thread:
        yield thread


def proved(relay: MemoryRelay) -> RawNode:
    node = relay.node()
    node.prove()
    return node


def counts(relay: MemoryRelay) -> dict[str, int]:
    return {state: count for state, count in relay.run.registry.counts().items() if count}


def test_a_release_before_the_grant_still_gives_the_address_back(thread: StoreThread) -> None:
    relay = MemoryRelay()
    node = proved(relay)
    thread.waits = True
    node.ask("web")
    node.say(Opcode.RELEASE, pb.Release(origin_address="web"), 2)
    assert node.take(Opcode.RELEASE).message.request_nonce == 2
    thread.all_turns()
    relay.pump()
    assert node.heard() == []
    assert counts(relay) == {"free": 3, "quarantined": 1}


def test_a_release_before_the_grant_that_cannot_be_stored_ends_no_connection(
    thread: StoreThread,
) -> None:
    relay = MemoryRelay()
    node = proved(relay)
    thread.waits = True
    node.ask("web")
    node.say(Opcode.RELEASE, pb.Release(origin_address="web"), 2)
    thread.turn()
    thread.turn(DISK_FULL)
    relay.pump()
    assert node.lost is None
    assert counts(relay) == {"free": 3, "quarantined": 1}


def test_a_node_that_leaves_before_the_grant_is_remembered(thread: StoreThread) -> None:
    relay = MemoryRelay()
    node = proved(relay)
    thread.waits = True
    node.ask("web")
    node.transport.abortConnection()
    relay.pump()
    thread.all_turns()
    assert counts(relay) == {"free": 3, "remembered": 1}


def test_a_node_that_leaves_while_another_port_is_refused_is_not_held_for_ever(
    thread: StoreThread,
) -> None:
    relay = MemoryRelay()
    node = proved(relay)
    port = node.lease("web")
    thread.waits = True
    node.ask("web", nonce=2, proxy_address=":1")
    node.transport.abortConnection()
    relay.pump()
    thread.all_turns()
    assert counts(relay) == {"free": 3, "remembered": 1}
    again = proved(relay)
    again.ask("web")
    thread.all_turns()
    relay.pump()
    response = again.take(Opcode.PROXY_RESPONSE).payload
    assert response.proxy_address == f"127.0.0.1:{port}"
