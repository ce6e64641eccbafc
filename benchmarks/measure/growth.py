"""Whether an event costs more when ten times as much is open."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from benchmarks.measure.base import Cost, Row, Scale
from benchmarks.measure.idle import REGISTER_SECONDS, open_visitors, registered
from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.processes import cpu_seconds

# Keepalives of all leases are repeated until so many events were counted: the
# kernel counts CPU in steps of 10 ms.
KEEPALIVES = 20_000
ROUND_TRIPS = 10_000
MICROSECONDS = 1e6


class LeaseGrowth(Cost):
    """CPU of one keepalive and its answer, with few and with ten times as many leases."""

    name = "lease_growth"
    rows = (
        Row("keepalive_cpu_few", "CPU of a keepalive, few leases", "us", False),
        Row("keepalive_cpu_many", "CPU of a keepalive, 10 x leases", "us", False),
        Row("keepalive_growth", "growth of a keepalive at 10 x leases", "x", False),
    )

    def measure(self, peer: Peer, origin: Ports, scale: Scale) -> dict[str, float]:
        few, many = scale.growth_leases
        with registered(peer, few, many + few) as registrar:
            at_few = self._keepalive_cpu(peer, registrar.keepalive, few)
            registrar.register(many - few, REGISTER_SECONDS)
            at_many = self._keepalive_cpu(peer, registrar.keepalive, many)
        return {
            "keepalive_cpu_few": at_few,
            "keepalive_cpu_many": at_many,
            "keepalive_growth": at_many / at_few,
        }

    @staticmethod
    def _keepalive_cpu(peer: Peer, keepalive: Callable[[float], float], leases: int) -> float:
        repeats = max(1, KEEPALIVES // leases)
        before = cpu_seconds(peer.server_end)
        for _ in range(repeats):
            keepalive(REGISTER_SECONDS)
        return (cpu_seconds(peer.server_end) - before) / (repeats * leases) * MICROSECONDS


class StreamGrowth(Cost):
    """CPU of one byte there and back, with few and with ten times as many streams open."""

    name = "stream_growth"
    rows = (
        Row("echo_cpu_few", "CPU of a byte there and back, few streams", "us", False),
        Row("echo_cpu_many", "CPU of a byte there and back, 10 x streams", "us", False),
        Row("echo_growth", "growth of a byte there and back at 10 x streams", "x", False),
    )

    def measure(self, peer: Peer, origin: Ports, scale: Scale) -> dict[str, float]:
        few, many = scale.growth_streams
        ports = peer.start(origin)
        places = [(ports.host, ports.echo)]
        with contextlib.ExitStack() as visitors:
            opened = open_visitors(visitors, places, few)
            at_few = self._echo_cpu(peer, opened)
            opened += open_visitors(visitors, places, many - few)
            at_many = self._echo_cpu(peer, opened)
        return {"echo_cpu_few": at_few, "echo_cpu_many": at_many, "echo_growth": at_many / at_few}

    @staticmethod
    def _echo_cpu(peer: Peer, visitors: list[socket.socket]) -> float:
        """Of both ends; every visitor in turn, so that each stream has its share."""
        ends = [*peer.server_end, *peer.node_end]
        before = cpu_seconds(ends)
        for number in range(ROUND_TRIPS):
            visitor = visitors[number % len(visitors)]
            visitor.sendall(b"x")
            visitor.recv(1)
        return (cpu_seconds(ends) - before) / ROUND_TRIPS * MICROSECONDS
