"""New connections a second: connect, one byte there and back, close (``csource/storm.c``)."""

from __future__ import annotations

import json

from benchmarks import tools
from benchmarks.measure.base import Link, Load, Row
from benchmarks.processes import BenchmarkError

CONCURRENCY = 8
# A relay that loses more than this share has not done the work.
TOLERATED_FAILURES = 0.01


class Connections(Load):
    """Eight visitors at once, each again and again."""

    name = "connections"
    rows = (Row("connections", "new connections, 8 at once", "1/s"),)

    def measure(self, link: Link, seconds: float) -> dict[str, float]:
        program = tools.compiled("storm", link.peer.scene.directory)
        where = [link.ports.host, str(link.ports.echo)]
        result = json.loads(
            link.visit([program, *where, str(CONCURRENCY), f"{seconds:g}"], seconds)
        )
        done, failed = result["connections"], result["failures"]
        if failed > TOLERATED_FAILURES * (done + failed):
            raise BenchmarkError(f"{failed} of {done + failed} connections failed")
        return {"connections": done / result["seconds"]}
