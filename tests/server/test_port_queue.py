"""No port left: a deployed node's request waits, bounded, and is answered when there is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from proxyservice.leases.lease import LeaseQuota, LeaseTimes
from proxyservice.server.limits import ServiceLimits
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.leases.harness import DISK_FULL, store_thread
from tests.server.memory import MemoryRelay, RawNode
from tests.server.test_refusals import logged

TTL_SECONDS = 100.0


@pytest.fixture(autouse=True)
def disk_thread() -> Iterator[Any]:
    with store_thread() as thread:
        yield thread


def full_relay(ports: int = 2, **options: Any) -> tuple[MemoryRelay, list[RawNode]]:
    """A relay, and those who have all its ports."""
    times = LeaseTimes(ttl=TTL_SECONDS, proved_ttl=TTL_SECONDS, quarantine=20.0)
    options.setdefault("quota", LeaseQuota(per_key=100, per_source=1000))
    relay = MemoryRelay(range(20000, 20000 + ports), times=times, **options)
    holders = []
    for seed in range(1, ports + 1):
        node = relay.node(seed)
        node.prove()
        node.lease("here")
        holders.append(node)
    return relay, holders


def deployed(relay: MemoryRelay, seed: int, source: str = "127.0.0.1") -> RawNode:
    """A node of part A that has asked."""
    node = relay.node(seed, source=source)
    node.say(Opcode.PROXY_REQUEST)
    return node


def pass_time(relay: MemoryRelay, seconds: float) -> None:
    relay.pass_time(seconds)


def release(node: RawNode) -> None:
    node.say(Opcode.RELEASE, pb.Release(origin_address="here"), 99)
    node.take(Opcode.RELEASE)


def port_of(node: RawNode) -> int:
    return int(node.take(Opcode.PROXY_RESPONSE).payload.proxy_address.rpartition(":")[2])


def test_it_is_answered_when_a_port_is_released() -> None:
    relay, (holder, _) = full_relay()
    with logged() as text:
        waits = deployed(relay, 11)
    assert "the request of 127.0.0.1 waits for a port: no port is left" in text.getvalue()
    pass_time(relay, 40)
    assert waits.heard() == []
    assert waits.lost is None
    release(holder)
    pass_time(relay, 0.5)
    assert port_of(waits) == 20000
    assert len(relay.factory.port_queue) == 0
    visitor = relay.visit(20000)
    assert visitor is not None


def test_it_is_answered_when_a_lease_expires() -> None:
    relay, (holder, _) = full_relay()
    waits = deployed(relay, 11)
    holder.transport.loseConnection()
    pass_time(relay, TTL_SECONDS - 2)
    assert waits.heard() == []
    pass_time(relay, 4)
    assert port_of(waits) == 20000


def test_it_is_answered_when_a_lease_is_revoked() -> None:
    relay, (holder, _) = full_relay()
    waits = deployed(relay, 11)
    net_key = holder.sender.net_key
    relay.run.registry.revoke(lambda owner: owner.identity.net_key == net_key)
    pass_time(relay, 0.5)
    assert port_of(waits) == 20000


def test_it_is_answered_when_another_program_has_left_its_port() -> None:
    relay, _ = full_relay(1)
    relay.run.sockets.busy.add(20001)
    relay.run.registry._table._unleased._free[20001] = None
    relay.run.registry._table._ports = relay.run.registry._ports = range(20000, 20002)
    waits = deployed(relay, 11)
    assert waits.heard() == []
    relay.run.sockets.busy.clear()
    pass_time(relay, 58)
    assert waits.heard() == []
    pass_time(relay, 4)
    assert port_of(waits) == 20001


def test_a_store_that_cannot_be_written_makes_it_wait_too(disk_thread: Any) -> None:
    relay = MemoryRelay()
    disk_thread.waits = True
    waits = deployed(relay, 11)
    disk_thread.turn(DISK_FULL)
    relay.pump()
    disk_thread.waits = False
    assert waits.heard() == []
    assert waits.lost is None
    pass_time(relay, 12)
    assert port_of(waits) in range(20000, 20004)


def test_who_waits_longest_is_first_and_a_newcomer_is_behind_them() -> None:
    relay, (one, two) = full_relay()
    first = deployed(relay, 11)
    pass_time(relay, 1)
    second = deployed(relay, 12)
    release(one)
    third = deployed(relay, 13)
    assert port_of(first) == 20000, "the newcomer's request let it come first"
    release(two)
    proves = relay.node(14)
    proves.prove()
    proves.ask("new", nonce=5)
    assert port_of(second) == 20001
    assert proves.refused() == (pb.REFUSAL_EXHAUSTED, 5), "part B hears it at once"
    assert third.heard() == []


def test_its_keepalives_are_not_answered_until_it_has_a_port() -> None:
    relay, (holder, _) = full_relay()
    waits = deployed(relay, 11)
    for _ in range(5):
        waits.say(Opcode.KEEPALIVE)
        pass_time(relay, 3)
    assert waits.heard() == []
    waits.say(Opcode.METRIC_REQUEST, pb.MetricRequest(send_timestamp=5), 7)
    assert waits.take(Opcode.METRIC_RESPONSE).payload.send_timestamp == 5
    release(holder)
    pass_time(relay, 1)
    port_of(waits)
    waits.say(Opcode.KEEPALIVE)
    waits.take(Opcode.KEEPALIVE_RESPONSE)


def test_a_keepalive_right_behind_the_request_is_not_answered_either(disk_thread: Any) -> None:
    relay, _ = full_relay()
    node = relay.node(11)
    node.write(node.frame(Opcode.PROXY_REQUEST) + node.frame(Opcode.KEEPALIVE))
    pass_time(relay, 1)
    assert node.heard() == []


def test_a_request_said_again_is_the_same_request() -> None:
    relay, (holder, _) = full_relay()
    first, second = deployed(relay, 11), deployed(relay, 12)
    first.say(Opcode.PROXY_REQUEST)
    assert len(relay.factory.port_queue) == 2
    release(holder)
    pass_time(relay, 1)
    answers = {said.payload.proxy_address for said in first.heard()}
    assert answers == {"127.0.0.1:20000"}
    assert second.heard() == []


def test_a_node_that_comes_again_is_served_on_its_newest_connection() -> None:
    """The old one may be dead and not yet found to be: it takes no port of its own."""
    relay, (holder, _) = full_relay()
    dead, alive = deployed(relay, 11), deployed(relay, 11)
    release(holder)
    pass_time(relay, 1)
    assert port_of(alive) == 20000
    assert dead.lost is not None
    assert relay.run.registry.counts()["free"] == 0
    assert relay.run.registry.counts()["live"] == 2


def test_who_leaves_waits_no_more() -> None:
    relay, (holder, _) = full_relay()
    waits, behind = deployed(relay, 11), deployed(relay, 12)
    waits.transport.abortConnection()
    assert len(relay.factory.port_queue) == 1
    release(holder)
    pass_time(relay, 1)
    assert port_of(behind) == 20000


def test_after_a_while_it_is_closed() -> None:
    relay, _ = full_relay(limits=ServiceLimits(port_wait_seconds=30.0))
    waits = deployed(relay, 11)
    pass_time(relay, 28)
    assert waits.lost is None
    with logged() as text:
        pass_time(relay, 4)
    assert waits.lost is not None
    assert "refused 127.0.0.1: no port became free" in text.getvalue()
    assert relay.factory.deadlines._due.keys().isdisjoint({relay.factory.port_queue})


def test_four_of_a_source_wait_and_the_oldest_goes() -> None:
    relay, _ = full_relay(limits=ServiceLimits(strangers_per_source=100))
    of_one = [deployed(relay, 20 + number, "192.0.2.7") for number in range(6)]
    other = deployed(relay, 40, "192.0.2.8")
    relay.pump()
    assert [node.lost is None for node in of_one] == [False, False, True, True, True, True]
    assert other.lost is None


def test_at_most_so_many_wait_and_the_oldest_of_the_busiest_source_goes() -> None:
    limits = ServiceLimits(port_waiters=5, port_waiters_per_source=4)
    relay, (one, two) = full_relay(limits=limits)
    calm = deployed(relay, 20, "192.0.2.1")
    busy = [deployed(relay, 30 + number, "192.0.2.2") for number in range(4)]
    late = deployed(relay, 50, "192.0.2.3")
    relay.pump()
    assert calm.lost is late.lost is None
    assert [node.lost is None for node in busy] == [False, True, True, True]
    release(one)
    release(two)
    pass_time(relay, 1)
    assert port_of(calm) == 20000
    assert port_of(busy[1]) == 20001


def test_sources_with_one_each_do_not_drive_out_who_is_first_in_line() -> None:
    relay, (holder, _) = full_relay(limits=ServiceLimits(port_waiters=5))
    first = deployed(relay, 10, "192.0.2.1")
    newcomers = [deployed(relay, 20 + number, f"192.0.2.{10 + number}") for number in range(6)]
    relay.pump()
    assert [node.lost is None for node in newcomers] == [True] * 4 + [False] * 2
    release(holder)
    pass_time(relay, 0.5)
    assert port_of(first) == 20000


def test_a_look_is_not_put_off_by_those_who_come() -> None:
    relay, (holder, _) = full_relay()
    waits = deployed(relay, 11)
    release(holder)
    queue = relay.factory.port_queue
    for _ in range(4):
        relay.clock.advance(0.1)
        queue.wait(waits.relay, None, None)  # type: ignore[arg-type]
        queue.forget(waits.relay)  # type: ignore[arg-type]
        relay.deadlines.tick(relay.clock.seconds())
        relay.pump()
    assert port_of(waits) == 20000


def test_a_revoked_node_and_one_at_the_service_s_end_wait_no_more() -> None:
    relay, _ = full_relay()
    waits = deployed(relay, 11)
    (connection,) = [one for one in relay.factory.connections if one.leases.waits_for_port]
    connection.drain(pb.Draining())
    relay.pump()
    assert waits.lost is not None
    assert len(relay.factory.port_queue) == 0
