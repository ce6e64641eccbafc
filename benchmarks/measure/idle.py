"""Resident memory of what is open and does nothing: streams and leases."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator

from benchmarks.measure.base import Cost, Row, Scale
from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.peers.proxyservice import start_server
from benchmarks.processes import BenchmarkError, resident_bytes, wait_until
from benchmarks.registrar import Registrar

KIB = 1024
NODES = 10  # a main connection carries at most 1,024 streams
# Opened before the first reading, so that what a process allocates once is not counted.
WARM_UP = 50
VISITOR_SECONDS = 10.0  # for one visitor to get its byte back
TOTAL_SECONDS = 60.0
SETTLE_SECONDS = 0.5  # for memory that is freed right after
REGISTER_SECONDS = 120.0
START_SECONDS = 20.0
# Descriptors that the server needs beside the two of a lease or visitor.
SPARE_DESCRIPTORS = 1000


def affordable(count: int) -> int:
    """`count`, or as many as two descriptors each in one process allow."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(count, (limit - SPARE_DESCRIPTORS) // 2)


class IdleStreams(Cost):
    """Visitors that sent one byte, got it back, and stay."""

    name = "idle_streams"
    rows = (
        Row("idle_stream_server", "memory of an idle stream, server end", "KiB", False),
        Row("idle_stream_node", "memory of an idle stream, node end", "KiB", False),
        Row("idle_streams_count", "idle streams held for that", "streams"),
    )

    def applies(self, peer: type[Peer]) -> bool:
        return peer.name != "direct"

    def measure(self, peer: Peer, origin: Ports, scale: Scale) -> dict[str, float]:
        places = [(p.host, p.echo) for p in peer.start_many(origin, NODES)]
        count = affordable(min(scale.idle_streams, peer.most_idle_streams))
        with contextlib.ExitStack() as visitors:
            open_visitors(visitors, places, WARM_UP)
            before = _resident(peer)
            open_visitors(visitors, places, count)
            after = _resident(peer)
        server, node = (
            (late - early) / count / KIB for late, early in zip(after, before, strict=True)
        )
        return {
            "idle_stream_server": server,
            "idle_stream_node": node,
            "idle_streams_count": float(count),
        }


class IdleLeases(Cost):
    """Leases of part A nodes whose main connections say nothing."""

    name = "idle_leases"
    rows = (
        Row("idle_lease_server", "memory of an idle lease, server end", "KiB", False),
        Row("idle_leases_count", "idle leases held for that", "leases"),
    )

    def measure(self, peer: Peer, origin: Ports, scale: Scale) -> dict[str, float]:
        count = affordable(scale.idle_leases)
        with registered(peer, WARM_UP, count + WARM_UP) as registrar:
            before = _resident(peer)
            registrar.register(count, REGISTER_SECONDS)
            after = _resident(peer)
        cost = (after[0] - before[0]) / count / KIB
        return {"idle_lease_server": cost, "idle_leases_count": float(count)}


@contextlib.contextmanager
def registered(peer: Peer, first: int, ports: int) -> Iterator[Registrar]:
    """Start a server with `ports` lease ports as the peer's server end, and `first` nodes on it."""
    main = start_server(peer, ports)
    host, _, port = main.rpartition(":")
    wait_until(lambda: _accepts(host, int(port)), START_SECONDS, "the server to accept")
    registrar = Registrar((host, int(port)))
    try:
        registrar.register(first, REGISTER_SECONDS)
        yield registrar
    finally:
        registrar.close()


def open_visitors(
    stack: contextlib.ExitStack, places: list[tuple[str, int]], count: int
) -> list[socket.socket]:
    """Open `count` visitors, evenly over `places`; each has had its byte back."""
    deadline, visitors = time.monotonic() + TOTAL_SECONDS, []
    for number in range(count):
        visitor = stack.enter_context(
            socket.create_connection(places[number % len(places)], VISITOR_SECONDS)
        )
        visitor.sendall(b"x")
        if visitor.recv(1) != b"x":
            raise BenchmarkError(f"visitor {number + 1} of {count} was turned away")
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{number} of {count} visitors after {TOTAL_SECONDS:g} s")
        visitors.append(visitor)
    return visitors


def _accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1.0):
        return True
    return False


def _resident(peer: Peer) -> tuple[int, int]:
    time.sleep(SETTLE_SECONDS)
    return resident_bytes(peer.server_end), resident_bytes(peer.node_end)
