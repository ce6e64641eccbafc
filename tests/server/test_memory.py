"""One bound for what waits in the service: the count is right, and its steps are taken."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.server.limits import ServiceLimits
from proxyservice.server.memory import Memory
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import GoodPair, announcement, application_frame, connections
from tests.attacks.running import RunningService, scaled
from tests.leases.harness import store_thread
from tests.node.processes import wait_until
from tests.server.memory import MemoryRelay, RawNode
from tests.traced import counts_references

MIB = 1 << 20
FAR = "203.0.113.7"
SPARE_AND_MOVING_BYTES = 24 * MIB  # kept for the next frame, or copied to a larger place


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


class Waits:
    """Somebody for whom bytes wait; of a trusted source, if none is named."""

    def __init__(self, source: str | None = None) -> None:
        self.memory_source = source
        self.ended = False

    def memory_short(self) -> None:
        self.ended = True


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300))))
def test_the_sum_is_that_of_the_holders_and_within_its_bound(events: list[tuple[int, int]]) -> None:
    memory, holders, held = Memory(1000), [Waits() for _ in range(6)], dict[int, int]()
    for number, n_bytes in events:
        memory.hold(holders[number], n_bytes)
        held[number] = n_bytes
        for other, holder in enumerate(holders):
            if holder.ended:
                held[other], holder.ended = 0, False
        assert memory.held_bytes == sum(held.values()) <= 900
        assert len(memory) == sum(map(bool, held.values()))


def test_the_steps() -> None:
    told: list[bool] = []
    memory, one, other = Memory(100, told.append), Waits(), Waits()

    def state(n_bytes: int) -> tuple[bool, bool, bool]:
        memory.hold(one, n_bytes)
        return memory.windows_grow, memory.room_for_visitor, memory.room_for_node

    assert state(69) == (True, True, True)
    assert state(70) == (False, True, True)
    assert state(80) == (False, False, True)
    assert state(69) == (True, True, True)
    assert told == [False, True]
    memory.hold(other, 30)
    assert (one.ended, other.ended) == (True, False), "the largest goes"
    assert memory.held_bytes == 30


def test_nodes_are_kept_out_last() -> None:
    memory = Memory(100)
    memory.hold(Waits(), 96)
    assert memory.room_for_node, "who held that has gone"
    memory.held_bytes = 95
    assert not memory.room_for_node


def holders(memory: Memory, source: str | None, *sizes: int) -> list[Waits]:
    """So many of one source, each holding so much."""
    made = [Waits(source) for _ in sizes]
    for one, n_bytes in zip(made, sizes, strict=True):
        memory.hold(one, n_bytes)
    return made


def test_one_source_has_half_however_many_it_is() -> None:
    memory = Memory(1000, source_share=0.5)
    small_ones = holders(memory, "busy", *[10] * 60)
    assert sum(one.ended for one in small_ones) == 10
    assert memory.held_bytes == 500
    assert not memory.room_for_visitor_of("busy")
    assert memory.room_for_visitor_of("another")
    assert memory.room_for_visitor_of(None)


def test_of_two_that_would_have_all_each_has_a_third() -> None:
    memory = Memory(1000, source_share=0.5)
    for _ in range(100):
        for source in ("one", "two"):
            holders(memory, source, 10)
    assert 640 <= memory.held_bytes <= 680
    assert memory.room_for_visitor_of("three")


def test_what_was_held_before_others_came_may_stay_but_not_grow() -> None:
    memory = Memory(1000, source_share=0.5)
    (first,) = holders(memory, "one", 450)
    holders(memory, "two", 250)
    assert not first.ended
    memory.hold(first, 449)
    assert not first.ended
    memory.hold(first, 460)
    assert first.ended


def test_the_largest_of_the_largest_source_goes_and_no_larger_one_of_another() -> None:
    memory = Memory(1000)
    (good,) = holders(memory, "good", 300)
    many = holders(memory, "busy", *[99] * 5, 101)
    assert not any(one.ended for one in (good, *many))
    holders(memory, "third", 10)
    assert [one.ended for one in many] == [False] * 5 + [True]
    assert not good.ended


def test_trusted_ones_stand_each_for_itself() -> None:
    memory = Memory(1000, source_share=0.5)
    (large,) = holders(memory, None, 600)
    many = holders(memory, None, *[20] * 16)
    assert large.ended
    assert not any(one.ended for one in many)
    assert memory.held_bytes == 320


SOURCES = [None, None, "a", "a", "b", "b"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300))))
def test_by_source_the_sum_is_right_and_nothing_stays(events: list[tuple[int, int]]) -> None:
    memory, made = Memory(1000, source_share=0.5), [Waits(source) for source in SOURCES]
    held = dict.fromkeys(made, 0)
    for number, n_bytes in events:
        memory.hold(made[number], n_bytes)
        held[made[number]] = n_bytes
        for one in made:
            if one.ended:
                held[one], one.ended = 0, False
        assert memory.held_bytes == memory.recount() == sum(held.values()) <= 900
        for source in ("a", "b"):
            assert sum(n for one, n in held.items() if one.memory_source == source) <= 500
    for one in made:
        memory.hold(one, 0)
    assert memory._sources == {}


# ------------------------------------------------------------------------------ in the service


def proved(relay: MemoryRelay, seed: int) -> RawNode:
    node = relay.node(seed, source=FAR)
    node.prove()
    return node


def small(n_bytes: int = MIB, **options: Any) -> MemoryRelay:
    """Of that much memory; one source may have all of it, but where a test says otherwise."""
    limits = ServiceLimits(memory_bytes=n_bytes, memory_share_per_source=1.0)
    return MemoryRelay(limits=limits, **options)


def send(relay: MemoryRelay, visitor: Any, data: bytes) -> None:
    visitor.transport.write(data)
    relay.pump()


def test_frames_that_are_not_complete_are_counted_until_they_are() -> None:
    relay = small(8 * MIB)
    port = proved(relay, 1).lease(mode=pb.MODE_MESSAGES)
    visitor = relay.visit(port)
    frame = application_frame(bytes(MIB))
    send(relay, visitor, frame[:700_000])
    assert 700_000 <= relay.factory.memory.held_bytes <= 2 * MIB
    send(relay, visitor, frame[700_000:])
    assert relay.factory.memory.held_bytes == 0
    send(relay, visitor, frame[:700_000])
    assert visitor is not None
    visitor.transport.abortConnection()
    relay.pump()
    assert relay.factory.memory.held_bytes == 0


def test_the_largest_frame_goes_and_the_others_stay() -> None:
    relay = small(4 * MIB)
    port = proved(relay, 1).lease(mode=pb.MODE_MESSAGES)
    visitors = [relay.visit(port) for _ in range(3)]
    for visitor, n_bytes in zip(visitors, (200_000, 300_000, 4 * MIB), strict=True):
        send(relay, visitor, announcement(8 * MIB, bytes(n_bytes)))
    assert [one is not None and one.lost is not None for one in visitors] == [False, False, True]
    assert relay.factory.memory.held_bytes < 0.9 * 4 * MIB


def test_a_visitor_that_does_not_read_is_counted_and_then_none_comes_in() -> None:
    relay = small(200_000, kernel_bytes=1000)
    node = proved(relay, 1)
    port = node.lease()
    visitor, other = relay.visit(port), relay.visit(port)
    assert visitor is not None
    assert other is not None
    visitor.transport.pauseProducing()
    first = node.heard()[0].message.request_nonce
    node.stream_data(first, bytes(165_000))
    assert relay.factory.memory.held_bytes == 164_000
    assert relay.visit(port) is None
    assert not relay.factory.memory.windows_grow
    node.stream_data(first, bytes(50_000))
    assert visitor.lost is not None
    assert other.lost is None
    assert relay.factory.memory.held_bytes == 0
    assert relay.visit(port) is not None


def test_a_node_that_does_not_read_is_counted() -> None:
    relay = small(MIB, kernel_bytes=100_000)
    node = proved(relay, 1)
    visitor = relay.visit(node.lease())
    node.transport.pauseProducing()
    send(relay, visitor, bytes(500_000))
    assert relay.factory.memory.held_bytes > 50_000
    node.transport.resumeProducing()
    relay.pump()
    assert relay.factory.memory.held_bytes == 0
    node.transport.pauseProducing()
    send(relay, visitor, bytes(500_000))
    node.transport.abortConnection()
    relay.pump()
    assert relay.factory.memory.held_bytes == 0


def test_what_comes_on_top_of_a_full_queue_is_counted_and_what_leaves_is_not() -> None:
    relay = small(MIB, kernel_bytes=1000, chunk_bytes=1000)
    node = proved(relay, 1)
    node.lease()
    node.transport.reading = False
    server = node.transport.other.protocol
    server.outlet.write(bytes(70_000))
    first = relay.factory.memory.held_bytes
    assert first == server.outlet.queued_bytes > 60_000
    server.outlet.write(bytes(70_000))
    assert relay.factory.memory.held_bytes == server.outlet.queued_bytes == first + 70_000


def test_a_busy_source_is_refused_before_others_and_its_largest_goes_first() -> None:
    relay = MemoryRelay(limits=ServiceLimits(memory_bytes=8 * MIB))
    port = proved(relay, 1).lease(mode=pb.MODE_MESSAGES)
    good = relay.visit(port, host="198.51.100.7")
    send(relay, good, announcement(2 * MIB, bytes(MIB)))
    busy = [relay.visit(port) for _ in range(8)]
    for one in busy:
        if one is not None:
            send(relay, one, announcement(2 * MIB, bytes(400_000)))
    assert good is not None
    assert good.lost is None
    assert any(one is not None and one.lost is not None for one in busy)
    assert relay.visit(port) is None
    assert relay.visit(port, host="203.0.113.200") is not None


def test_an_unfinished_control_frame_is_counted_when_it_is_large() -> None:
    relay = small()
    node = proved(relay, 1)
    node.lease()
    node.write(announcement(60_000, bytes(50_000)))
    assert 50_000 <= relay.factory.memory.held_bytes <= 61_000
    node.transport.abortConnection()
    relay.pump()
    assert relay.factory.memory.held_bytes == 0


def test_windows_grow_no_more_and_new_ones_are_small() -> None:
    relay = small()
    node = proved(relay, 1)
    port = node.lease()
    relay.visit(port)
    waits = Waits()
    relay.factory.memory.hold(waits, MIB * 3 // 4)
    multiplexer = relay.pairs[0].server.protocol.switch.multiplexer
    (stream,) = multiplexer
    size_bytes = stream.receive.size_bytes
    node.heard()
    for _ in range(20):
        node.stream_data(1, bytes(100_000))
    assert stream.receive.size_bytes == size_bytes
    relay.visit(port)
    (opening,) = [said for said in node.heard() if said.opcode == Opcode.STREAM_OPEN]
    assert opening.payload.initial_window == 16 * 1024
    relay.factory.memory.hold(waits, 0)
    for _ in range(20):
        node.stream_data(1, bytes(100_000))
    assert stream.receive.size_bytes > size_bytes


def test_a_new_connection_knows_that_memory_is_short_and_at_95_percent_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay, waits = small(), Waits()
    relay.factory.memory.hold(waits, MIB * 3 // 4)
    port = proved(relay, 1).lease()
    assert relay.visit(port) is not None
    multiplexer = relay.pairs[0].server.protocol.switch.multiplexer
    (stream,) = multiplexer
    assert stream.receive.size_bytes == 16 * 1024
    relay.factory.memory.hold(waits, 0)
    monkeypatch.setattr(relay.factory.memory, "held_bytes", MIB * 96 // 100)
    assert relay.factory.buildProtocol(None) is None


@counts_references
@pytest.mark.process
@pytest.mark.heavy
def test_unfinished_frames_of_many_visitors_stay_within_the_bound(tmp_path: Path) -> None:
    """Each visitor sends a megabyte of a frame of 64; 16 MiB are allowed."""
    count = scaled(400, 60)
    options = ("--limit", "memory-bytes=16MiB")
    with (
        RunningService(tmp_path, *options) as service,
        GoodPair(service, 1) as stuck,
        GoodPair(service, 2) as other,
        ExitStack() as stack,
    ):
        stuck.relay_one()
        before = service.resident_bytes
        visitors = connections(stack, service, count, stuck.port)
        for number, visitor in enumerate(visitors):
            with suppress(OSError):
                visitor.sendall(announcement(64 * MIB, bytes(MIB)))
            if number % 10 == 0:
                other.relay_one()
        other.relay_one()
        assert service.resident_bytes - before < 16 * MIB + SPARE_AND_MOVING_BYTES
        service.wait_to_say("memory is short")
        poller = select.poll()
        for visitor in visitors:
            poller.register(visitor, 0)  # an error or a hang-up is always told
        wait_until(lambda: len(poller.poll(0)) > count - 20, what=service.log)
