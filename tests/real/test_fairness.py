"""T18 and T19 with real programs: bulk streams share, and neither slow nor small ones suffer.

Rates are compared within one run and never with a clock's idea of fast.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.node.processes import EchoServer, Program, Relay, wait_until
from tests.real.conftest import FULL, Run, socket_address, unused_port

pytestmark = [pytest.mark.process, pytest.mark.heavy]

BULK = 32
SECONDS = 8.0 if FULL else 2.0
PINGS = 1000 if FULL else 150
P99_SECONDS = 0.050
KEPT = 0.9 if FULL else 0.6
"""Of their speed, by those beside one that reads nothing."""
MIB = 1 << 20
BOUND_BYTES = 32 * MIB
"""Credit of one main connection that is granted and not consumed."""
SLACK_BYTES = 24 * MIB
"""Reading buffers, queues of main connections, and what Python keeps of freed memory."""

HERE = Path(__file__).parent


@dataclass
class Scene:
    """A relay, and one node with two targets on one main connection."""

    relay: Relay
    exposing: Program
    bulk: tuple[str, int]
    echo: tuple[str, int]

    def readers(self, run: Run, count: int, seconds: float = SECONDS) -> Program:
        return run(sys.executable, HERE / "readers.py", *self.bulk, count, seconds)

    def rates(self, run: Run, count: int) -> list[int]:
        readers = self.readers(run, count)
        return list(json.loads(readers.wait_for(r"(\[.*\])")[1]))

    def memory_bytes(self) -> dict[str, int]:
        processes = {"relay": self.relay.process.pid, "node": self.exposing.process.pid}
        return {name: _resident(pid) for name, pid in processes.items()}

    def memory_at_rest(self) -> dict[str, int]:
        """Once no process has grown for half a second."""
        seen: list[dict[str, int]] = []

        def still() -> bool:
            seen.append(self.memory_bytes())
            return len(seen) > 25 and all(one == seen[-1] for one in seen[-25:])

        wait_until(still, 40, what="memory comes to rest")
        return seen[-1]


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = re.findall(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(kib) * 1024


@pytest.fixture
def scene(own_relay: Relay, run: Run, expose: Run) -> Iterator[Scene]:
    port = unused_port()
    source = run(sys.executable, HERE / "source.py", port)
    source.wait_for("sending")
    with EchoServer() as echo:
        exposing = expose(port, echo.port, "--via", own_relay.via)
        addresses = [
            socket_address(exposing.wait_for(rf"exposed {target} at (\S+)")[1])
            for target in (port, echo.port)
        ]
        yield Scene(own_relay, exposing, addresses[0], addresses[1])
        exposing.kill()


def jain(values: list[int]) -> float:
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def test_t18_bulk_streams_share_and_a_small_one_is_not_delayed(scene: Scene, run: Run) -> None:
    readers = scene.readers(run, BULK, 2 * SECONDS)
    readers.wait_for("reading")
    with socket.create_connection(scene.echo, timeout=15) as small:
        small.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        worst = [p99_seconds(small)]
        while worst[-1] > P99_SECONDS and len(worst) < 3:  # the machine has other things to do
            worst.append(p99_seconds(small))
        assert readers.process.poll() is None, "the small stream had no bulk beside it"
    shares = json.loads(readers.wait_for(r"(\[.*\])")[1])
    assert len(shares) == BULK
    assert jain(shares) >= 0.95, shares
    assert min(worst) <= P99_SECONDS, worst


def p99_seconds(small: socket.socket) -> float:
    """Of so many round trips, one at a time."""
    took = []
    for _ in range(PINGS):
        began = time.monotonic()
        small.sendall(b"x" * 64)
        got = b""
        while len(got) < 64:
            got += small.recv(64)
        took.append(time.monotonic() - began)
    return sorted(took)[int(len(took) * 0.99)]


def test_t19_one_that_reads_nothing_slows_nobody_and_costs_a_window(scene: Scene, run: Run) -> None:
    scene.rates(run, BULK)  # windows have grown, buffers are there
    before = scene.memory_bytes()
    kept: list[float] = []
    while not kept or (max(kept) < KEPT and len(kept) < 3):  # the machine has other things to do
        alone = sum(scene.rates(run, BULK - 1))
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(scene.bulk)
            kept.append(sum(scene.rates(run, BULK - 1)) / alone)
            after = scene.memory_bytes()
            assert stalled.recv(1) == b"\0", "it was not cut off: it may go on"
    assert max(kept) >= KEPT, kept
    for name, now in after.items():
        assert now - before[name] <= BOUND_BYTES + SLACK_BYTES, (name, before, after)


def test_many_that_read_nothing_stay_within_the_bound(scene: Scene, run: Run) -> None:
    before = scene.memory_bytes()
    visitors = []
    try:
        for _ in range(400 if FULL else 200):
            visitor = socket.socket()
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            visitor.connect(scene.bulk)
            visitors.append(visitor)
        some = before["relay"] + 4 * MIB
        wait_until(lambda: scene.memory_bytes()["relay"] > some, 40, "something is held for them")
        after = scene.memory_at_rest()
        with socket.create_connection(scene.echo, timeout=15) as small:
            for _ in range(20):
                small.sendall(b"x" * 10_000)
                got = 0
                while got < 10_000:
                    got += len(small.recv(10_000))
        for name, now in after.items():
            assert now - before[name] <= BOUND_BYTES + SLACK_BYTES, (name, before, after)
    finally:
        for visitor in visitors:
            visitor.close()
