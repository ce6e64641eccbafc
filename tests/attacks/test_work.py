"""Work that few bytes cause (D1 to D3), with limits on: memory, and what another source notices."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import keepalive, proxy_request, receive_message, register
from tests.attacks.running import RunningService, figure, full, scaled
from tests.attacks.work import MAIN_PORT, PROXY_PORT, flooding

MIB = 1 << 20
ATTACKER, OTHER, NEWCOMER = "127.0.0.5", "127.0.0.9", "127.0.0.10"
LIMITS = (
    *("--claimed", "allow", "--trusted-sources", "none"),
    *("--limit", "memory-bytes=64MiB"),
)

pytestmark = [pytest.mark.process, pytest.mark.heavy]


def node(service: RunningService, number: int, source: str) -> socket.socket:
    """One that has its address."""
    connection = service.connect(source=source)
    connection.sendall(proxy_request(number))
    assert receive_message(connection).opcode == Opcode.PROXY_RESPONSE
    return connection


def round_trip(connection: socket.socket, number: int) -> float:
    """Seconds for a keepalive."""
    begun = time.monotonic()
    connection.sendall(keepalive(number))
    assert receive_message(connection).opcode == Opcode.KEEPALIVE_RESPONSE
    return time.monotonic() - begun


def assert_undisturbed(
    service: RunningService, what: str, port: int, names: list[str], most_seconds: float
) -> None:
    """While a source sends all this, memory stays and another source's node is served.

    ``most_seconds`` is for the reduced form, on a machine that does other things as well.
    """
    seconds = scaled(30, 3)
    with node(service, 1, OTHER) as other:
        round_trip(other, 1)
        before = largest = service.resident_bytes
        took = []
        flood = flooding(port, names, seconds + 2, ATTACKER)
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                took.append(round_trip(other, 1))
                largest = max(largest, service.resident_bytes)
                time.sleep(0.005)
            begun = time.monotonic()
            node(service, 2, NEWCOMER).close()
            let_in = time.monotonic() - begun
        finally:
            assert flood.wait(60) == 0
    slowest = sorted(took)[len(took) * 99 // 100]
    figure(f"{what}: more memory", (largest - before) / MIB, "MiB")
    figure(f"{what}: p99 of another source's keepalive", slowest * 1000, "ms")
    figure(f"{what}: a new node is let in after", let_in * 1000, "ms")
    assert largest - before < 96 * MIB
    assert slowest < (0.1 if full() else most_seconds)
    assert let_in < (1 if full() else 5)


MIXED = [*MAIN_PORT]
EACH = [[name] for name in MAIN_PORT] if full() else []


@pytest.mark.parametrize("names", [*EACH, MIXED], ids=lambda names: "+".join(names)[:40])
def test_d1_to_d3_few_bytes_to_the_main_port_disturb_nobody_else(
    tmp_path: Path, names: list[str]
) -> None:
    with RunningService(tmp_path, *LIMITS, lease_ports=32) as service:
        assert_undisturbed(service, names[0], service.port, names, 0.15)


@pytest.mark.parametrize("names", [[*PROXY_PORT]], ids=["all"])
def test_d3_what_visitors_send_disturbs_no_other_node(tmp_path: Path, names: list[str]) -> None:
    """Their node takes all of it."""
    with RunningService(tmp_path, *LIMITS, lease_ports=32) as service:
        reader, port = register(service, 3)
        with reader, reading(reader):
            assert_undisturbed(service, "visitors", port, names, 0.5)


@contextmanager
def reading(connection: socket.socket) -> Iterator[None]:
    """A process reads it, for as long as the block lasts."""
    connection.setblocking(True)
    code = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1]))\n"
    code += "while s.recv(1 << 20): pass"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(connection.fileno())], pass_fds=[connection.fileno()]
    ) as reader:
        try:
            yield
        finally:
            reader.kill()
