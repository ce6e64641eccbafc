"""Whether an event costs more when ten times as much is open."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence

from benchmarks.measure.base import Cost, Row, Scale
from benchmarks.measure.idle import REGISTER_SECONDS, open_visitors, registered
from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.processes import Process, cpu_seconds

# Events of one reading: enough of them, for the kernel counts CPU in steps of 10 ms.
KEEPALIVES = 20_000
ROUND_TRIPS = 5_000
# Both sizes stand side by side and are read in turn, so that whatever else the
# machine does meets both; medians of so many readings are compared.
READINGS = 5
MICROSECONDS = 1e6

# Does some events and returns what one of them cost.
Reading = Callable[[], float]


class LeaseGrowth(Cost):
    """CPU of one keepalive and its answer, with few and with ten times as many leases."""

    name = "lease_growth"
    rows = (
        Row("keepalive_cpu_few", "CPU of a keepalive, few leases", "us", False),
        Row("keepalive_cpu_many", "CPU of a keepalive, 10 x leases", "us", False),
        Row("keepalive_growth", "growth of a keepalive at 10 x leases", "x", False),
    )

    def measure(self, peer: Peer, origin: Ports, scale: Scale) -> dict[str, float]:
        with contextlib.ExitStack() as stack:
            readings = [self._reading(stack, peer, leases) for leases in scale.growth_leases]
            few, many = in_turn(readings)
        return {
            "keepalive_cpu_few": few,
            "keepalive_cpu_many": many,
            "keepalive_growth": many / few,
        }

    @staticmethod
    def _reading(stack: contextlib.ExitStack, peer: Peer, leases: int) -> Reading:
        """Start a server with so many leases."""
        another = another_of(stack, peer)
        registrar = stack.enter_context(registered(another, leases, leases))
        rounds = max(1, KEEPALIVES // leases)

        def keep_alive() -> None:
            for _ in range(rounds):
                registrar.keepalive(REGISTER_SECONDS)

        return lambda: cpu_of(another.server_end, keep_alive) / (rounds * leases)


class StreamGrowth(Cost):
    """CPU of one byte there and back, with few and with ten times as many streams open."""

    name = "stream_growth"
    rows = (
        Row("echo_cpu_few", "CPU of a byte there and back, few streams", "us", False),
        Row("echo_cpu_many", "CPU of a byte there and back, 10 x streams", "us", False),
        Row("echo_growth", "growth of a byte there and back at 10 x streams", "x", False),
    )

    def measure(self, peer: Peer, origin: Ports, scale: Scale) -> dict[str, float]:
        with contextlib.ExitStack() as stack:
            readings = [
                self._reading(stack, peer, origin, streams) for streams in scale.growth_streams
            ]
            few, many = in_turn(readings)
        return {"echo_cpu_few": few, "echo_cpu_many": many, "echo_growth": many / few}

    @staticmethod
    def _reading(stack: contextlib.ExitStack, peer: Peer, origin: Ports, streams: int) -> Reading:
        """Start a server and a node with so many streams; every one has its share of the events."""
        another = another_of(stack, peer)
        ports = another.start(origin)
        visitors = open_visitors(stack, [(ports.host, ports.echo)], streams)

        def echo() -> None:
            for number in range(ROUND_TRIPS):
                visitor = visitors[number % len(visitors)]
                visitor.sendall(b"x")
                visitor.recv(1)

        ends = [*another.server_end, *another.node_end]
        return lambda: cpu_of(ends, echo) / ROUND_TRIPS


def another_of(stack: contextlib.ExitStack, peer: Peer) -> Peer:
    """Make one more relay of the same kind, stopped with the stack."""
    another = type(peer)(peer.scene)
    stack.callback(another.stop)
    return another


def cpu_of(processes: Sequence[Process], work: Callable[[], None]) -> float:
    """CPU microseconds that the processes spend while `work` is done."""
    before = cpu_seconds(processes)
    work()
    return (cpu_seconds(processes) - before) * MICROSECONDS


def in_turn(readings: Sequence[Reading]) -> list[float]:
    """Take each reading READINGS times, by turns; the medians."""
    taken = [[reading() for reading in readings] for _ in range(READINGS)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]
