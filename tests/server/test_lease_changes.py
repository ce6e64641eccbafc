"""Leases that begin and end as fast as a node can ask: how many, and what stays of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyservice.leases.lease import LeaseQuota
from proxyservice.server.limits import ServiceLimits
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.leases.harness import store_thread
from tests.server.memory import MemoryRelay, RawNode
from tests.server.test_refusals import logged

FAR = "203.0.113.7"
LIMITS = ServiceLimits(
    lease_changes_per_key=1.0,
    lease_burst_per_key=10.0,
    lease_changes_per_source=2.0,
    lease_burst_per_source=20.0,
)


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


def proved(relay: MemoryRelay, seed: int, source: str = FAR) -> RawNode:
    node = relay.node(seed, source=source)
    node.prove()
    return node


def request_and_release(node: RawNode, times: int) -> tuple[int, pb.Refusal | None]:
    """How often a lease was had and given back, and what the refusal said."""
    for number in range(times):
        node.ask(nonce=number + 1)
        (said,) = node.heard()
        if said.opcode == Opcode.REFUSAL:
            return number, said.payload
        node.say(Opcode.RELEASE, pb.Release(), number + 1)
        node.take(Opcode.RELEASE)
    return times, None


def test_request_and_release_in_a_loop_is_slowed_down_and_told_so() -> None:
    relay = MemoryRelay(limits=LIMITS)
    node = proved(relay, 1)
    done, refusal = request_and_release(node, 100)
    assert done == 10
    assert refusal is not None
    assert refusal.code == pb.REFUSAL_QUOTA
    assert 0 < refusal.retry_after_ms <= 1000
    assert "--limit lease-changes-per-key=N" in refusal.reason
    relay.clock.advance(refusal.retry_after_ms / 1000)
    assert request_and_release(node, 100)[0] == 1


def test_keys_are_free_so_a_source_has_a_limit_too() -> None:
    relay = MemoryRelay(limits=LIMITS)
    done = [request_and_release(proved(relay, seed), 8) for seed in range(1, 5)]
    assert [number for number, _ in done] == [8, 8, 4, 0]
    refusal = done[-1][1]
    assert refusal is not None
    assert "--limit lease-changes-per-source=N" in refusal.reason
    assert request_and_release(proved(relay, 9, "203.0.113.8"), 8)[0] == 8, "another source"


def test_who_comes_back_is_not_counted_and_not_refused() -> None:
    """Not for what its neighbours do either, and however often it loses its connection."""
    relay = MemoryRelay(limits=LIMITS)
    port = proved(relay, 1).lease("mine")
    for seed in range(2, 5):
        request_and_release(proved(relay, seed), 10)
    for _ in range(50):
        node = proved(relay, 1)
        assert node.lease("mine") == port
        node.transport.abortConnection()
        relay.pump()


def test_a_request_that_is_refused_counts_for_nothing() -> None:
    relay = MemoryRelay(limits=LIMITS, quota=LeaseQuota(per_key=1))
    node = proved(relay, 1)
    assert node.lease("a")
    for number in range(100):
        node.ask("b", nonce=number + 2)
        (said,) = node.heard()
        assert "leases already" in said.payload.reason
    node.say(Opcode.RELEASE, pb.Release(origin_address="a"), 1)
    node.take(Opcode.RELEASE)
    assert node.lease("b")


def test_to_move_from_port_to_port_counts_as_well() -> None:
    relay = MemoryRelay(limits=LIMITS)
    node = proved(relay, 1)
    port = node.lease()
    for number in range(9):
        port = 20000 if port != 20000 else 20001
        assert node.lease(proxy_address=f":{port}", nonce=number + 2) == port
    node.ask(proxy_address=":20002", nonce=50)
    (said,) = node.heard()
    assert said.payload.code == pb.REFUSAL_QUOTA
    assert node.lease(nonce=51) == port, "and it stays where it is"


def test_what_leases_write_into_the_log_is_bounded_and_the_rest_is_counted() -> None:
    relay = MemoryRelay()
    with logged() as text:
        for seed in range(1, 400):
            node = relay.node(seed, source=f"198.51.{seed >> 8}.{seed & 255}")
            node.prove()
            node.lease()
            node.say(Opcode.RELEASE, pb.Release(), 1)
            node.transport.abortConnection()
            relay.pump()
        lines = len(text.getvalue().splitlines())
        assert 200 <= lines <= 210, "ten seconds' worth"
        relay.clock.advance(10.0)
        proved(relay, 1).lease()
    assert "more lines about leases, too many to tell" in text.getvalue()
