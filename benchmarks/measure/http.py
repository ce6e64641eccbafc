"""HTTP requests a second by wrk against nginx, answers of 1 KiB."""

from __future__ import annotations

import math
import re

from benchmarks import tools
from benchmarks.measure.base import Link, Load, Row
from benchmarks.processes import BenchmarkError

CONNECTIONS = 32
# wrk counts every response to `Connection: close` as one; what it calls errors
# beyond this share are requests that were lost.
TOLERATED_ERRORS = 0.01


class Http(Load):
    """32 connections at once, kept alive or one for each request."""

    def __init__(self, keep_alive: bool) -> None:
        self.name = "http_keep_alive" if keep_alive else "http_close"
        kept = "keep-alive" if keep_alive else "a connection each"
        self.rows = (Row(self.name, f"HTTP requests, {kept}", "1/s"),)
        self._options = [] if keep_alive else ["-H", "Connection: close"]

    def measure(self, link: Link, seconds: float) -> dict[str, float]:
        length = max(1, math.ceil(seconds))  # wrk takes whole seconds
        url = f"http://{link.ports.host}:{link.ports.http}/"
        command = [
            tools.need("wrk"),
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{length}s",
            *self._options,
            url,
        ]
        output = link.visit(command, length)
        rate, total = (
            _number(r"Requests/sec:\s+([\d.]+)", output),
            _number(r"(\d+) requests in", output),
        )
        bad = re.search(
            r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output
        )
        errors = sum(int(count) for count in bad.groups()) if bad else 0
        errors += int(_number(r"Non-2xx or 3xx responses: (\d+)", output))
        if errors > TOLERATED_ERRORS * (total + errors) or total == 0:
            raise BenchmarkError(f"wrk: {errors} errors beside {total:g} requests")
        return {self.name: rate}


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0
