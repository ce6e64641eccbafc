"""Round trips of one 64-byte message in flight (``csource/pingpong.c``)."""

from __future__ import annotations

import json

from benchmarks import tools
from benchmarks.measure.base import Link, Load, Row

MESSAGE_BYTES = 64


class RoundTrip(Load):
    """Median and 99th percentile."""

    name = "round_trip"
    rows = (
        Row("round_trip_p50", "round trip of 64 B, p50", "us", False),
        Row("round_trip_p99", "round trip of 64 B, p99", "us", False),
    )

    def measure(self, link: Link, seconds: float) -> dict[str, float]:
        program = tools.compiled("pingpong", link.peer.scene.directory)
        command = [
            program,
            link.ports.host,
            str(link.ports.echo),
            str(MESSAGE_BYTES),
            f"{seconds:g}",
        ]
        result = json.loads(link.visit(command, seconds))
        return {"round_trip_p50": result["p50_us"], "round_trip_p99": result["p99_us"]}
