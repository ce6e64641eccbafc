"""Threat T30: connect, transfer, close, and again; what the service has stays what it was."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import median

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from proxyservice.wire.stream_frames import stream_control_frame, stream_data_prefix
from tests.attacks.kit import (
    NET,
    ProvedNode,
    application_frame,
    receive,
    receive_message,
    register,
)
from tests.node.processes import Relay, open_descriptors, wait_until
from tests.ports import unused_port
from tests.real.conftest import TRACEBACK
from tests.survive.conftest import FULL, PORTS, scaled
from tests.traced import counts_references

pytestmark = [pytest.mark.process, pytest.mark.heavy]

LOGINS = scaled(1_000, 100)
CYCLES = scaled(100_000, 3_000)
WARM_UP_CYCLES = CYCLES // 5
"""Until then caches fill: of the store, of the allocator, of the interpreter."""

CYCLES_OF_A_CONNECTION = 25
"""Then the node comes back: by turns after its connection has ended, and before."""

SAMPLES = 40
MOST_BYTES_PER_1000 = scaled(1024, 64 * 1024)
DATA = bytes(range(256)) * 8
FRAME = application_frame(DATA)


class CountedRelay(Relay):
    """What it has can be asked for."""

    twistd = (sys.executable, "-m", "tests.survive.counted")

    def counts(self) -> dict[str, int]:
        """What `counted.counts` finds, and the descriptors."""
        told = self.directory / "counts"
        told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR2)
        wait_until(told.exists)
        found: dict[str, int] = json.loads(told.read_text())
        found["descriptors"] = len(open_descriptors(self.process.pid))
        return found

    def settled(self) -> dict[str, int]:
        """The counts that should not change; of memory there are other figures."""
        return {name: n for name, n in self.counts().items() if name != "blocks"}

    def resident_bytes(self) -> int:
        """Memory of its own, garbage taken out: resident, less what is shared with files."""
        self.counts()
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[CountedRelay]:
    relay = CountedRelay(tmp_path / "relay", unused_port(), PORTS)
    yield relay
    try:
        relay.finish()
    finally:
        relay.kill()
    assert not TRACEBACK.search(relay.stdout + relay.stderr)


class MessageNode:
    """Part A: hears whole frames."""

    def __init__(self, relay: CountedRelay) -> None:
        self._relay = relay
        self._connection, self.port = register(relay, 1)

    def again(self, number: int) -> None:
        """A new connection, the old one having ended or not."""
        former, port = self._connection, self.port
        if number % 2:
            former.close()
        self._connection, self.port = register(self._relay, 1)
        former.close()
        assert self.port == port

    def cycle(self, number: int) -> None:
        """One visitor, from its coming to its end."""
        with self._relay.connect(self.port) as visitor:
            visitor.sendall(FRAME)
            assert receive(self._connection, len(FRAME)) == FRAME
            if number % 2:
                reset_at_close(visitor)


class StreamNode:
    """Part B: answers what it hears, in a stream."""

    def __init__(self, relay: CountedRelay) -> None:
        self._relay = relay
        self._key = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01")
        self._node = ProvedNode(relay, self._key, streams=True)
        self.port = self._node.port

    def again(self, number: int) -> None:
        """A new connection, the old one having ended or not."""
        former = self._node.connection
        if number % 2:
            former.close()
        self._node = ProvedNode(self._relay, self._key, streams=True)
        former.close()
        assert self._node.port == self.port

    def cycle(self, number: int) -> None:
        """One visitor, from its coming to its end."""
        connection = self._node.connection
        with self._relay.connect(self.port) as visitor:
            visitor.sendall(DATA)
            stream_id = self._heard(Opcode.STREAM_OPEN)[-1].request_nonce
            said = b""
            while len(said) < len(DATA):
                said += self._heard(Opcode.STREAM_DATA)[-1].message
            connection.sendall(stream_data_prefix(NET, stream_id, len(said)) + said)
            if number % 2:
                assert receive(visitor, len(DATA)) == DATA
                reset_at_close(visitor)
            else:
                connection.sendall(stream_control_frame(NET, Opcode.STREAM_END, stream_id, b""))
                assert receive(visitor, len(DATA) + 1) == DATA, "and then the end"
        self._heard(Opcode.STREAM_RESET if number % 2 else Opcode.STREAM_END)

    def _heard(self, opcode: int) -> list[pb.Message]:
        """All up to the first of this opcode; credit comes in between."""
        heard = [receive_message(self._node.connection)]
        while heard[-1].opcode != opcode:
            assert heard[-1].opcode == Opcode.STREAM_WINDOW, heard
            heard.append(receive_message(self._node.connection))
        return heard


def reset_at_close(visitor: socket.socket) -> None:
    """It will leave with RST instead of FIN."""
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def slope(samples: list[tuple[int, int]]) -> float:
    """The median of those between any two: one step of an allocator is none."""
    return median((y - v) / (x - u) for (u, v), (x, y) in combinations(samples, 2))


def test_the_slope_of_a_line() -> None:
    assert slope([(x, 7 * x + 3) for x in range(9)]) == 7
    assert slope([(x, 100 * (x > 6)) for x in range(9)]) == 0


@counts_references
def test_t30_nothing_grows(relay: CountedRelay) -> None:
    nodes = (MessageNode(relay), StreamNode(relay))
    samples: list[tuple[int, int]] = []
    before: dict[str, int] = {}
    blocks = 0
    for number in range(CYCLES):
        if number == WARM_UP_CYCLES:
            before, blocks = relay.settled(), relay.counts()["blocks"]
        if number >= WARM_UP_CYCLES and number % (CYCLES // SAMPLES) == 0:
            samples.append((number, relay.resident_bytes()))
        turn, node = number // 2, nodes[number % 2]
        if turn % CYCLES_OF_A_CONNECTION == 0:
            node.again(turn // CYCLES_OF_A_CONNECTION)
        node.cycle(turn)
    wait_until(lambda: relay.settled() == before, what=(before, relay.settled()))
    blocks = relay.counts()["blocks"] - blocks
    per_1000 = 1000 * slope(samples)
    print(f"{CYCLES} cycles: {per_1000:.0f} bytes of memory per 1,000, {blocks} objects; {before}")
    assert per_1000 < MOST_BYTES_PER_1000
    if FULL:  # some hundred come and go with each connection of a node
        assert blocks < CYCLES // 20


def test_t3_logins_over_connections_that_are_still_open(relay: CountedRelay) -> None:
    nodes = (MessageNode(relay), StreamNode(relay))
    before = relay.settled()
    for number in range(LOGINS // 2):
        for node in nodes:
            node.again(0)
            if number % 10 == 0:
                node.cycle(number)
    wait_until(lambda: relay.settled() == before, what=(before, relay.settled()))
