"""Bulk bytes by iperf3, and what they cost both ends in CPU."""

from __future__ import annotations

import json
import math
from typing import Any

from benchmarks import tools
from benchmarks.measure.base import Link, Load, Row
from benchmarks.processes import BenchmarkError

BITS_PER_GIGABIT = 1e9
BYTES_PER_GIGABYTE = 1e9


class Throughput(Load):
    """`streams` at once; up is visitor to origin, down is origin to visitor."""

    grows = True

    def __init__(self, streams: int, down: bool) -> None:
        direction = "down" if down else "up"
        word = "stream" if streams == 1 else "streams"
        self.name = f"throughput_{streams}_{direction}"
        title = f"{streams} {word} {direction}"
        self.rows = (
            Row(self.name, f"throughput, {title}", "Gbit/s"),
            Row(f"cpu_server_{streams}_{direction}", f"CPU of server end, {title}", "s/GB", False),
            Row(f"cpu_node_{streams}_{direction}", f"CPU of node end, {title}", "s/GB", False),
        )
        self._options = ["-P", str(streams), *(["-R"] if down else [])]

    def measure(self, link: Link, seconds: float) -> dict[str, float]:
        length = max(1, math.ceil(seconds))  # iperf3 takes whole seconds
        where = ["-c", link.ports.host, "-p", str(link.ports.iperf)]
        command = [tools.need("iperf3"), *where, "-J", "-t", str(length), *self._options]
        before = link.cpu_seconds()
        end = _end_of(link.visit(command, length))
        spent = [after - start for after, start in zip(link.cpu_seconds(), before, strict=True)]
        received = end["sum_received"]
        gigabytes = received["bytes"] / BYTES_PER_GIGABYTE
        figures = {self.rows[0].name: received["bits_per_second"] / BITS_PER_GIGABIT}
        ends = (link.peer.server_end, link.peer.node_end)
        for row, cpu, processes in zip(self.rows[1:], spent, ends, strict=True):
            if processes and gigabytes > 0:
                figures[row.name] = cpu / gigabytes
        return figures


def _end_of(report: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(report)
    if "error" in parsed:
        raise BenchmarkError(f"iperf3: {parsed['error']}")
    end: dict[str, Any] = parsed["end"]
    return end
