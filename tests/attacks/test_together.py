"""One source does all that it can, in turn and at once; another source's node does not notice.

The limits are on: nobody is trusted, and 64 MiB may wait in all. What is looked at is the memory
of the service, how long another source's node takes to be let in, and its keepalives.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import keepalive, proxy_request, receive_message
from tests.attacks.running import RunningService, figure, full, scaled
from tests.attacks.storm import ATTACKS

pytestmark = [pytest.mark.process, pytest.mark.heavy]

SECONDS = scaled(30, 3)
MIB = 1 << 20
GROWTH_BYTES = 96 * MIB
LET_IN_SECONDS = 1.0
KEEPALIVE_SECONDS = 0.1
BOUND = 1 if full() else 5
"""Others may use the machine during the reduced form: it sees who is kept out, not who is slow."""

NICE = 10
"""Of the attacking processes: they come after the service and whoever else is there."""

ATTACKER, OTHER, NEWCOMER = "127.0.0.2", "127.0.0.3", "127.0.1."


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    options = ("--trusted-sources", "none", "--limit", "memory-bytes=64MiB")
    with RunningService(tmp_path_factory.mktemp("together"), *options, lease_ports=200) as running:
        yield running


@contextmanager
def attacked(service: RunningService, names: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Each attack is a process of its own, from the one source.

    An attacker has machines of his own; here his processes have what the others leave.
    """
    storms = [
        subprocess.Popen(
            [
                *("nice", "-n", str(NICE), sys.executable, "-m", "tests.attacks.storm"),
                *(name, str(service.port), str(SECONDS), ATTACKER),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=Path(__file__).parents[2],
        )
        for name in names
    ]
    try:
        yield storms
    finally:
        for storm in storms:
            storm.kill()
            storm.wait()


OWN_NUMBER, NEWCOMERS = 1000, range(1001, 1006)


def register(service: RunningService, source: str, number: int) -> socket.socket:
    node = service.connect(source=source)
    node.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    node.sendall(proxy_request(number))
    answer = receive_message(node)
    assert answer.opcode == Opcode.PROXY_RESPONSE
    assert pb.ProxyResponse.FromString(answer.message).proxy_address
    return node


@pytest.mark.parametrize("names", [[name] for name in ATTACKS] + [list(ATTACKS)], ids="+".join)
def test_another_source_does_not_notice(service: RunningService, names: list[str]) -> None:
    before_bytes = most_bytes = service.resident_bytes
    let_in, answered = [], []
    newcomers = cycle(NEWCOMERS)
    with register(service, OTHER, OWN_NUMBER) as node, attacked(service, names) as storms:
        while any(storm.poll() is None for storm in storms):
            begun = time.monotonic()
            node.sendall(keepalive(OWN_NUMBER))
            assert receive_message(node).opcode == Opcode.KEEPALIVE_RESPONSE
            answered.append(time.monotonic() - begun)
            if len(answered) % 25 == 0:
                begun = time.monotonic()
                number = next(newcomers)
                register(service, f"{NEWCOMER}{number % 250}", number).close()
                let_in.append(time.monotonic() - begun)
            most_bytes = max(most_bytes, service.resident_bytes)
            assert service.alive, service.log
            time.sleep(0.01)  # a pace, and not a wait for anything
        assert all(storm.returncode == 0 for storm in storms), "an attack has to go on to its end"
    p99 = sorted(answered)[len(answered) * 99 // 100]
    name = "all" if len(names) > 1 else names[0]
    figure(f"{name}: memory", (most_bytes - before_bytes) / MIB, "MiB")
    figure(f"{name}: slowest to be let in", max(let_in), "s")
    figure(f"{name}: keepalive, p99", p99 * 1000, "ms")
    assert most_bytes - before_bytes <= GROWTH_BYTES
    assert max(let_in) <= LET_IN_SECONDS * BOUND
    assert p99 <= KEEPALIVE_SECONDS * BOUND
