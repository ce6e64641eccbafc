"""Bytes a second of one lease: both directions, both modes, and nothing is lost by it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyservice.server.access import Access
from proxyservice.server.limits import ServiceLimits
from proxyservice.server.pace import Pace
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import application_frame
from tests.leases.harness import store_thread
from tests.node.processes import SCRIPTS, EchoServer, Program, Relay, visit
from tests.server.memory import MemoryRelay, RawNode

RATE = 50_000


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


@pytest.fixture
def relay() -> MemoryRelay:
    limits = ServiceLimits(lease_bytes_per_second=RATE)
    return MemoryRelay(limits=limits, kernel_bytes=10_000, chunk_bytes=5_000)


def proved(relay: MemoryRelay, seed: int = 1) -> RawNode:
    node = relay.node(seed)
    node.prove()
    return node


def arrived(node: RawNode) -> int:
    return sum(len(said.payload) for said in node.heard() if said.opcode == Opcode.STREAM_DATA)


def test_what_visitors_send_comes_at_the_rate(relay: MemoryRelay) -> None:
    node = proved(relay)
    port = node.lease()
    visitors = [relay.visit(port) for _ in range(2)]
    for visitor in visitors:
        assert visitor is not None
        visitor.transport.write(bytes(200_000))
    relay.pump()
    got = arrived(node)
    assert RATE <= got <= RATE + 10_000, "a second's worth at once"
    for _ in range(4):
        relay.pass_time(1)
        second = arrived(node)
        assert RATE * 0.7 <= second <= RATE * 1.3
        got += second
    relay.pass_time(10)
    assert got + arrived(node) == 400_000


@pytest.mark.parametrize("bytes_meanwhile", [0.2, 0.4, 0.6, 0.8, 0.99])
def test_time_that_passes_while_it_decides_leaves_nobody_waiting(
    relay: MemoryRelay, monkeypatch: pytest.MonkeyPatch, bytes_meanwhile: float
) -> None:
    """There is no room, and a moment later, between two questions, there is some."""
    room = Pace.room

    def a_moment_later(pace: Pace) -> int:
        pace._level += bytes_meanwhile
        return room(pace)

    monkeypatch.setattr(Pace, "room", a_moment_later)
    node = proved(relay)
    visitor = relay.visit(node.lease())
    assert visitor is not None
    visitor.transport.write(bytes(200_000))
    relay.pass_time(10)
    assert arrived(node) == 200_000


def test_what_is_sent_to_visitors_comes_at_the_rate(relay: MemoryRelay) -> None:
    node = proved(relay)
    visitor = relay.visit(node.lease())
    assert visitor is not None
    credit, sent = node.heard()[0].payload.initial_window, 0
    for _ in range(12):
        n_bytes = min(credit, 60_000)
        while n_bytes:
            node.stream_data(1, bytes(n_bytes))
            credit, sent = credit - n_bytes, sent + n_bytes
            n_bytes = min(credit, 60_000)
            assert sent < 256 * 1024 * 3 + 14 * RATE
        relay.pass_time(1)
        windows = (said for said in node.heard() if said.opcode == Opcode.STREAM_WINDOW)
        credit += sum(said.payload.credit for said in windows)
    assert len(visitor.got) == sent
    assert sent > 10 * RATE


def test_messages_come_at_the_rate_and_whole(relay: MemoryRelay) -> None:
    node = proved(relay)
    visitor = relay.visit(node.lease(mode=pb.MODE_MESSAGES))
    assert visitor is not None
    frames = [application_frame(bytes([number]) * 900, 5) for number in range(200)]
    visitor.transport.write(b"".join(frames))
    relay.pump()
    got = [said.raw for said in node.heard()]
    assert RATE * 0.9 <= sum(map(len, got)) <= RATE + 10_000
    relay.pass_time(1)
    second = [said.raw for said in node.heard()]
    assert RATE * 0.7 <= sum(map(len, second)) <= RATE * 1.3
    relay.pass_time(5)
    assert got + second + [said.raw for said in node.heard()] == frames


def test_a_visitor_that_goes_leaves_nothing(relay: MemoryRelay) -> None:
    node = proved(relay)
    port = node.lease()
    for _ in range(3):
        visitor = relay.visit(port)
        assert visitor is not None
        visitor.transport.write(bytes(100_000))
        node.heard()
        relay.pump()
        visitor.transport.abortConnection()
        relay.pump()
    multiplexer = relay.pairs[0].server.protocol.switch.multiplexer
    assert len(multiplexer) == 0
    assert multiplexer.granted_bytes == 0
    relay.pass_time(2)
    holding: Any = next(iter(relay.pairs[0].server.protocol.leases._holdings.values()))
    assert not holding.pace._waiting


def test_what_a_lost_visitor_had_not_paid_is_given_back(relay: MemoryRelay) -> None:
    node = proved(relay)
    visitor = relay.visit(node.lease())
    assert visitor is not None
    stream_id = node.heard()[0].message.request_nonce
    for _ in range(3):
        node.stream_data(stream_id, bytes(80_000))
    multiplexer = relay.pairs[0].server.protocol.switch.multiplexer
    visitor.transport.abortConnection()
    relay.pump()
    assert multiplexer.granted_bytes == 0


def test_other_leases_are_not_slowed(relay: MemoryRelay) -> None:
    slow, quick = proved(relay, 1), proved(relay, 2)
    first, second = relay.visit(slow.lease()), relay.visit(quick.lease())
    assert first is not None
    assert second is not None
    first.transport.write(bytes(200_000))
    second.transport.write(bytes(40_000))
    relay.pump()
    assert arrived(quick) == 40_000


def test_the_policy_says_how_fast_and_may_change_its_mind(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[default]\nbytes_per_second = 1000")
    relay = MemoryRelay(kernel_bytes=10_000, chunk_bytes=5_000)
    relay.factory.access = Access(None, policy)
    node = proved(relay)
    port = node.lease()
    visitor = relay.visit(port)
    assert visitor is not None
    visitor.transport.write(bytes(200_000))
    relay.pump()
    assert arrived(node) <= 10_000
    policy.write_text("[default]\nbytes_per_second = 1000000")
    relay.factory.access.reload()
    relay.visit(port)
    relay.pass_time(20)
    assert arrived(node) > 180_000


@pytest.mark.process
def test_with_real_programs_a_transfer_takes_its_time_and_is_whole(
    tmp_path: Path, free_ports: Any
) -> None:
    port, low = free_ports(2)
    options = ("--limit", "lease-bytes-per-second=1MiB")
    relay = Relay(tmp_path / "relay", port, range(low, low + 1), *options)
    programs: list[Program] = [relay]
    said = os.urandom(1 << 20)
    try:
        with EchoServer() as echo:
            words = (echo.port, "--via", relay.via, "--key", tmp_path / "key")
            command = (SCRIPTS / "proxyservice", "expose", *words)
            programs.append(Program(tmp_path / "n", *command, STATE_DIRECTORY=str(tmp_path / "n")))
            address = programs[1].wait_for(r"exposed \d+ at (\S+)")[1]
            begun = time.monotonic()
            answer = visit(address, said)
            assert hashlib.sha256(answer).digest() == hashlib.sha256(said).digest()
            assert time.monotonic() - begun > 0.4, "2 MiB, of which 1 MiB and a window are free"
    finally:
        for program in programs:
            program.kill()
            assert "Traceback" not in program.stdout + program.stderr
