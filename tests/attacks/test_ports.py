"""Ports that run out, or are somebody else's: T5, T6."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from tests.attacks.kit import (
    NET,
    ProvedNode,
    closed,
    keepalive,
    proxy_request,
    receive_message,
    register,
)
from tests.attacks.running import RunningService, figure, full, scaled

pytestmark = [pytest.mark.process, pytest.mark.heavy]

PORTS = 16


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) * 99 // 100]


def test_t5_of_nodes_that_understand_no_refusal_a_bounded_number_waits(tmp_path: Path) -> None:
    """256 wait, the 16 with a port are undisturbed, and one that becomes free is given."""
    count = scaled(2_000, 400)
    options = ("--limit", "leases-per-key=100000", "--limit", "leases-per-source=100000")
    with RunningService(tmp_path, *options, lease_ports=PORTS) as service, ExitStack() as stack:
        holders = [stack.enter_context(register(service, number)[0]) for number in range(1, PORTS)]
        giving = ProvedNode(service, Ed25519PrivateKey.generate(), streams=True)
        stack.enter_context(giving.connection)
        waiting, keepalives = [], []
        for number in range(count):
            waiting.append(stack.enter_context(service.connect()))
            waiting[-1].sendall(proxy_request(1000 + number))
            if number % 10 == 0:
                begun = time.monotonic()
                holder = number // 10 % len(holders)
                holders[holder].sendall(keepalive(holder + 1))
                assert receive_message(holders[holder]).opcode == Opcode.KEEPALIVE_RESPONSE
                keepalives.append(time.monotonic() - begun)
        first, *others = waiting[-256:]
        assert all(closed(one) for one in waiting[:-256])
        assert not select.select(waiting[-256:], [], [], 0.5)[0], "they hear nothing"
        giving.connection.sendall(
            encode_message(NET, Opcode.RELEASE, pb.Release(), sender=giving.sender, request_nonce=2)
        )
        assert receive_message(first).opcode == Opcode.PROXY_RESPONSE
        assert not select.select(others, [], [], 0.5)[0]
        if full():
            assert p99(keepalives) < 0.100
        figure("p99 of a keepalive", p99(keepalives) * 1000, "ms")


def test_t5_sixteen_ports_and_ten_thousand_requests(tmp_path: Path) -> None:
    """16 grants, the rest refused, p99 under 10 ms, keepalives of the 16 undisturbed."""
    count = scaled(10_000, 600)
    options = ("--limit", "leases-per-key=100000")
    with RunningService(tmp_path, *options, lease_ports=PORTS) as service, ExitStack() as stack:
        holders = [stack.enter_context(register(service, number)[0]) for number in range(1, PORTS)]
        greedy = ProvedNode(service, Ed25519PrivateKey.generate(), streams=True)
        stack.enter_context(greedy.connection)
        refusals, keepalives = [], []
        for number in range(count):
            begun = time.monotonic()
            answer = greedy.ask(str(number), number + 2)
            refusals.append(time.monotonic() - begun)
            assert answer.opcode == Opcode.REFUSAL
            refusal = pb.Refusal.FromString(answer.message)
            assert refusal.code == pb.REFUSAL_EXHAUSTED
            assert refusal.reason
            if number % 10 == 0:
                holder = number // 10 % len(holders)
                begun = time.monotonic()
                holders[holder].sendall(keepalive(holder + 1))
                assert receive_message(holders[holder]).opcode == Opcode.KEEPALIVE_RESPONSE
                keepalives.append(time.monotonic() - begun)
        if full():
            assert p99(refusals) < 0.010
            assert p99(keepalives) < 0.100
        figure("p99 of a refusal", p99(refusals) * 1000, "ms")
        figure("p99 of a keepalive", p99(keepalives) * 1000, "ms")


HOLDER = """
import socket, sys
held = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
print("holding", flush=True)
sys.stdin.read()
"""


@contextmanager
def somebody_else(ports: range) -> Iterator[None]:
    """Another process that listens on these."""
    words = [sys.executable, "-c", HOLDER, *map(str, ports)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"holding\n"
            yield
        finally:
            process.kill()


def test_t6_half_of_the_range_is_held_by_another_process(tmp_path: Path) -> None:
    """Each allocation under 1 s; the ports are those that are left, and never others."""
    count = scaled(400, 40)
    with (
        RunningService(
            tmp_path, "--limit", "leases-per-source=100000", lease_ports=count
        ) as service,
        somebody_else(service.lease_ports[: count // 2]),
        ExitStack() as stack,
    ):
        given, took = [], []
        for number in range(1, count - count // 2 + 1):
            begun = time.monotonic()
            node, port = register(service, number)
            took.append(time.monotonic() - begun)
            stack.enter_context(node)
            given.append(port)
        assert sorted(given) == list(service.lease_ports[count // 2 :])
        with service.connect() as one_more:
            one_more.sendall(proxy_request(count + 1))
            assert not select.select([one_more], [], [], 1.5)[0], "it waits"
        if full():
            assert max(took) < 1
        figure("slowest allocation", max(took) * 1000, "ms")
