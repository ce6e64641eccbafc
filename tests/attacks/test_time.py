"""Time that a stranger can make the service spend or wait: T9, T11, T12."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxyservice.errors import FrameError
from proxyservice.wire.envelope import Opcode, decode_main
from proxyservice.wire.framing import Frame, encode_frame
from proxyservice.wire.relay_rules import RelayRules
from tests.attacks.kit import (
    NET,
    GoodPair,
    closed,
    connections,
    drip,
    flood,
    keepalive,
    nested_groups,
    proxy_request,
    register,
)
from tests.attacks.running import RunningService, full, scaled
from tests.leases.harness import store_thread
from tests.server.memory import MemoryRelay

DEPTH = 200_000


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


def fastest(refuse: object, attempts: int = 30) -> float:
    """Of several, for the machine may be busy; each must end in a FrameError."""
    assert callable(refuse)
    took = []
    for _ in range(attempts):
        begun = time.perf_counter()
        with pytest.raises(FrameError):
            refuse()
        took.append(time.perf_counter() - begun)
    return min(took)


def test_t9_nesting_200_000_deep_is_refused_within_a_millisecond() -> None:
    body = memoryview(nested_groups(DEPTH))
    assert fastest(lambda: RelayRules(NET).check(body)) < 0.001
    frame = Frame(0, 0, body, body)
    assert fastest(lambda: decode_main(frame, NET)) < 0.001


@pytest.mark.process
def test_t9_a_visitor_that_nests_is_closed(tmp_path: Path) -> None:
    with RunningService(tmp_path) as service, GoodPair(service, 1) as pair:
        with service.connect(pair.port) as visitor:
            visitor.sendall(encode_frame(NET, nested_groups(DEPTH)))
            assert closed(visitor)
        pair.relay_one()


def test_t11_slow_senders_are_gone_in_11_s_and_others_come_in() -> None:
    """On a held clock: a byte a second each, to the end of their time."""
    relay = MemoryRelay(ports=range(20000, 20050))
    slow = [relay.node(1000 + number) for number in range(200)]
    for second in range(9):
        for node in slow:
            node.transport.write(node.frame(Opcode.PROXY_REQUEST)[second : second + 1])
        relay.pass_time(1)
        assert relay.node(second + 1).lease()
        assert all(node.lost is None for node in slow)
    relay.pass_time(2)
    assert all(node.lost is not None for node in slow)


@pytest.mark.process
@pytest.mark.heavy
def test_t11_at_the_cap_the_oldest_go_and_a_good_node_comes_in(tmp_path: Path) -> None:
    """1,000 connections at 1 byte/s; the cap is 400. Reduced: 3 s of it."""
    count, seconds = scaled(1000, 450), scaled(12, 3)
    with RunningService(tmp_path, lease_ports=20) as service, ExitStack() as stack:
        slow = connections(stack, service, count)
        said = proxy_request(1)
        for second, left in enumerate(drip(slow, said, seconds)):
            assert left <= 400
            begun = time.monotonic()
            register(service, 100 + second)[0].close()
            assert time.monotonic() - begun < (1 if full() else 10)
        assert seconds < 11 or left == 0


@pytest.mark.process
def test_t12_keepalives_before_identity_are_not_answered(tmp_path: Path) -> None:
    """100,000 of them: no reply, closed at 4 KiB."""
    said = keepalive(1)
    with RunningService(tmp_path) as service, GoodPair(service, 2) as pair:
        with service.connect() as peer:
            peer.sendall(said * (4096 // len(said)))
            pair.relay_one()
            peer.setblocking(False)
            with pytest.raises(BlockingIOError):  # neither an answer nor an end
                peer.recv(1)
            flood(peer, said, 100_000 * len(said))
            assert closed(peer)
        pair.relay_one()
