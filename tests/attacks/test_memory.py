"""Memory that a stranger can make the service use: T7, T10, T13, T16."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.errors import FrameError
from proxyservice.wire.compression import decompress
from proxyservice.wire.envelope import INFLATED_LIMIT_BYTES, Opcode
from proxyservice.wire.stream_frames import stream_data_prefix
from tests.attacks.kit import (
    NET,
    GoodPair,
    ProvedNode,
    announcement,
    application_frame,
    bomb,
    bomb_frame,
    closed,
    connections,
    ends_unread,
    flood,
    keepalive,
    receive,
    receive_message,
    register,
)
from tests.attacks.running import RunningService, figure, full, scaled
from tests.leases.harness import store_thread
from tests.node import joined
from tests.server.memory import MemoryRelay
from tests.traced import traced_memory

MIB = 1 << 20
ANSWERS_TO_ONE_READ_BYTES = 40 * 1024  # what was read before the bound was met is answered
COMPRESSING = {2: "gzip", 3: "zlib", 4: "lzw"}


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


@pytest.mark.process
@pytest.mark.heavy
def test_t7_announced_lengths_take_no_memory(tmp_path: Path) -> None:
    """1,000 connections announce 4 GiB, or as much as is allowed: under 16 MiB more memory."""
    count = scaled(1000, 150)
    with RunningService(tmp_path) as service, GoodPair(service, 1) as pair, ExitStack() as stack:
        pair.relay_one()
        before = service.resident_bytes
        for port in (service.port, pair.port):
            for _ in range(count // 2):
                with service.connect(port) as peer:
                    peer.sendall(announcement(0xFFFFFFFF, b"x" * 100))
                    assert closed(peer)
        visitors = connections(stack, service, count // 2, pair.port)
        nodes = connections(stack, service, min(count // 2, 350))
        for peer, most in [(v, 64 * MIB) for v in visitors] + [(n, 1 << 16) for n in nodes]:
            peer.sendall(announcement(most, b"x" * 100))
        pair.relay_one()
        more = service.resident_bytes - before
        figure("more memory", more / MIB, "MiB")
        assert more < 16 * MIB * count / 1000 + MIB


@pytest.mark.parametrize("algorithm", COMPRESSING)
def test_t10_a_bomb_of_10_gb_gives_no_more_than_the_limit(algorithm: int) -> None:
    body = bomb(algorithm, scaled(10_000, 1_000) * MIB)
    with traced_memory() as traced:
        with pytest.raises(FrameError, match=f"more than {INFLATED_LIMIT_BYTES} bytes"):
            decompress(algorithm, body, INFLATED_LIMIT_BYTES)
        _, peak = traced.get_traced_memory()
    figure(f"peak of {COMPRESSING[algorithm]}", peak / MIB, "MiB")
    assert peak < 4 * MIB


@pytest.mark.heavy
@pytest.mark.process
@pytest.mark.parametrize("algorithm", COMPRESSING)
def test_t10_bombs_end_the_node_that_sends_them_and_pass_a_proxy_port_unread(
    tmp_path: Path, algorithm: int
) -> None:
    frame = bomb_frame(algorithm, 1000 * MIB, 60_000)
    with RunningService(tmp_path) as service, GoodPair(service, 1) as pair:
        pair.relay_one()
        before = service.resident_bytes
        for number in range(4):
            node, _ = register(service, 2 + number)
            with node:
                node.sendall(frame)
                assert closed(node)
        pair.visitor.sendall(frame)
        assert receive(pair.node, len(frame)) == frame
        pair.relay_one()
        assert service.resident_bytes - before < 4 * MIB


def test_t13_answers_wait_within_a_bound_and_the_peer_has_30_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 M keepalives from a node that does not read: 32 KiB held, closed in 30 s."""
    monkeypatch.setattr(joined, "HIGH_WATER_BYTES", 0)  # as a main connection's transport has it
    relay = MemoryRelay()
    node, other = relay.node(1), relay.node(2)
    node.lease()
    other.lease()
    server = node.transport.other
    node.transport.pauseProducing()
    said = node.frame(Opcode.KEEPALIVE) * 1000
    kernel = server.kernel_bytes
    for _ in range(scaled(1000, 40)):
        node.transport.write(said)
        relay.pump()
    assert not server.reading, "it is not read while it does not read"
    assert len(server.in_flight) == kernel
    assert 0 < server.queued_bytes <= 32 * 1024 + ANSWERS_TO_ONE_READ_BYTES
    other.say(Opcode.KEEPALIVE)
    other.take(Opcode.KEEPALIVE_RESPONSE)
    relay.pass_time(29)
    assert node.lost is None
    relay.pass_time(2)
    assert node.lost is not None
    assert other.lost is None


@pytest.mark.process
@pytest.mark.heavy
def test_t13_a_node_that_does_not_read_slows_nobody(tmp_path: Path) -> None:
    pairs, frames = scaled(100, 8), scaled(1_000_000, 100_000)
    with (
        RunningService(tmp_path, lease_ports=128) as service,
        ExitStack() as stack,
    ):
        others = [stack.enter_context(GoodPair(service, 100 + n)) for n in range(pairs)]
        node, _ = register(service, 1)
        with node:
            node.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            before = service.resident_bytes
            said = keepalive(1)
            total = frames * len(said)
            assert flood(node, said, total) < total, "it was read without end"
            more = service.resident_bytes - before
            figure("more memory", more / MIB, "MiB")
            assert more < 2 * MIB
            took = sorted(pair.relay_one() for _ in range(10) for pair in others)
            figure("p99 of the others", took[len(took) * 99 // 100] * 1000, "ms")
            if full():
                assert took[len(took) * 99 // 100] < 0.1
                assert ends_unread(node, 35), "closed in 30 s"


@pytest.mark.process
@pytest.mark.heavy
def test_t16_tiny_frames_cost_their_bytes(tmp_path: Path) -> None:
    """1 M one-byte frames: 8 MiB more at most, and every frame arrives once the node reads."""
    frame = application_frame(b"x", 5)
    with RunningService(tmp_path) as service, GoodPair(service, 1) as pair:
        pair.relay_one()
        before = service.resident_bytes
        total = scaled(1_000_000, 150_000) * len(frame)
        sent = flood(pair.visitor, frame, total)
        figure("frames until it is not read", sent // len(frame), "")
        figure("more memory", (service.resident_bytes - before) / MIB, "MiB")
        assert service.resident_bytes - before < 8 * MIB
        expected = memoryview(frame * 1000)
        left = sent // len(frame) * len(frame)
        while left:
            piece = receive(pair.node, min(left, len(expected)))
            assert piece == expected[: len(piece)]
            left -= len(piece)
        assert service.resident_bytes - before < 8 * MIB


@pytest.mark.process
@pytest.mark.heavy
def test_t16_many_visitors_of_a_node_that_does_not_read_wait_in_the_kernel(tmp_path: Path) -> None:
    """However many they are, the service itself holds one read of one of them."""
    frame = application_frame(bytes(1000), 5)
    with (
        RunningService(tmp_path) as service,
        GoodPair(service, 1) as stuck,
        GoodPair(service, 2) as other,
        ExitStack() as stack,
    ):
        visitors = connections(stack, service, scaled(500, 60), stuck.port)
        stuck.relay_one()
        before = service.resident_bytes
        for visitor in visitors:
            visitor.setblocking(False)
            with suppress(BlockingIOError):
                visitor.send(frame * 300)
        other.relay_one()
        assert service.resident_bytes - before < 4 * MIB
        other.relay_one()


@pytest.mark.process
@pytest.mark.heavy
def test_t16_stream_data_of_one_byte_costs_its_bytes(tmp_path: Path) -> None:
    """A million of them, for visitors that read nothing, as far as their windows allow."""
    count, each = scaled(4, 1), scaled(250_000, 40_000)
    with RunningService(tmp_path) as service, GoodPair(service, 1) as pair:
        node = ProvedNode(service, Ed25519PrivateKey.generate(), streams=True)
        with node.connection, ExitStack() as stack:
            visitors = [stack.enter_context(small_reader(node.port)) for _ in range(count)]
            for _ in visitors:
                assert receive_message(node.connection).opcode == Opcode.STREAM_OPEN
            pair.relay_one()
            before = service.resident_bytes
            for stream_id in range(1, count + 1):
                frames = (stream_data_prefix(NET, stream_id, 1) + b"x") * 1000
                for _ in range(each // 1000):
                    node.connection.sendall(frames)
            pair.relay_one()
            more = service.resident_bytes - before
            figure("more memory with streams", more / MIB, "MiB")
            assert more < 8 * MIB
            for visitor in visitors:
                assert receive(visitor, each) == b"x" * each, "each of them arrives"


def small_reader(port: int) -> socket.socket:
    """A visitor whose system takes little for it."""
    visitor = socket.socket()
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    visitor.settimeout(30)
    visitor.connect(("127.0.0.1", port))
    return visitor
