"""How long many nodes take to register, each answered only after its lease is durable."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from benchmarks.measure.base import Cost, Row, Scale
from benchmarks.measure.idle import REGISTER_SECONDS, affordable, registered
from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.processes import cpu_seconds

WARM_UP = 10


class Registration(Cost):
    """The server on one core, the nodes on the others (where the system lets one choose)."""

    name = "registration"
    rows = (
        Row("registration_seconds", "time for all nodes to register", "s", False),
        Row("registration_cpu", "CPU of the server for one registration", "us", False),
        Row("registration_count", "nodes registered for that", "nodes"),
    )

    def measure(self, peer: Peer, origin: Ports, scale: Scale) -> dict[str, float]:
        count = affordable(scale.registrations)
        with registered(peer, WARM_UP, count + WARM_UP) as registrar, _cores_apart(peer):
            before = cpu_seconds(peer.server_end)
            seconds = registrar.register(count, REGISTER_SECONDS)
            cpu = cpu_seconds(peer.server_end) - before
        return {
            "registration_seconds": seconds,
            "registration_cpu": cpu / count * 1e6,
            "registration_count": float(count),
        }


@contextlib.contextmanager
def _cores_apart(peer: Peer) -> Iterator[None]:
    """Put the server on the first core, this process on the rest."""
    ours = os.sched_getaffinity(0)
    first = min(ours)
    for process in peer.server_end:
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            os.sched_setaffinity(int(thread), {first})
    os.sched_setaffinity(0, ours - {first} or ours)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)
