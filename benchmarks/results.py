"""All figures of a run: samples per row and relay, failures, and where they were measured.

Knows arithmetic on samples and the JSON file; not what the rows mean.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Row
from benchmarks.processes import BenchmarkError, run

OURS = "proxyservice"
# The peers among which the best one is looked for; chains, ssh and no relay are shown beside.
TUNNELS = ("rathole", "bore", "frp", "chisel")
BEST_TUNNEL = "best tunnel"


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some samples."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: list[float]) -> Spread:
        return cls(min(samples), statistics.median(samples), max(samples))


@dataclass
class Results:
    """Samples by row and relay; the n-th sample of every relay is of the same round."""

    rows: dict[str, Row] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    peers: dict[str, dict[str, str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def add(self, row: Row, peer: str, sample: float | None) -> None:
        """Note the figure of one round; None where it failed."""
        self.rows[row.name] = row
        self.samples.setdefault(row.name, {}).setdefault(peer, []).append(sample)

    def spread(self, row: str, peer: str) -> Spread | None:
        """Over the rounds; None when no round gave a figure."""
        known = [s for s in self.samples.get(row, {}).get(peer, []) if s is not None]
        return Spread.of(known) if known else None

    def reference(self, row: str, name: str) -> str | None:
        """Name the relay that `name` stands for: BEST_TUNNEL by the median of this row."""
        if name != BEST_TUNNEL:
            return name if self.spread(row, name) else None
        medians = {p: s.median for p in TUNNELS if (s := self.spread(row, p)) is not None}
        best = max if self.rows[row].higher_is_better else min
        return best(medians, key=medians.__getitem__) if medians else None

    @property
    def installations(self) -> list[str]:
        """The relays that are this project, too, with another Python."""
        return [name for name, about in self.peers.items() if about.get("installed")]

    def ratio(self, row: str, to: str, ours: str = OURS) -> Spread | None:
        """Divide this project's figure by that of `to`, in the same round each."""
        other = self.reference(row, to)
        if other is None:
            return None
        mine, theirs = self.samples[row].get(ours, []), self.samples[row].get(other, [])
        pairs = zip(mine, theirs, strict=False)
        ratios = [a / b for a, b in pairs if a is not None and b is not None and b > 0]
        return Spread.of(ratios) if ratios else None

    def save(self, path: Path) -> None:
        """As JSON, with the machine beside the figures."""
        content = {"machine": machine(), **asdict(self)}
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote; BenchmarkError if it is something else."""
        try:
            content = json.loads(path.read_text())
            content.pop("machine")
            rows = {name: Row(**row) for name, row in content.pop("rows").items()}
            return cls(rows=rows, **content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchmarkError(f"{path} holds no results: {error}") from error


def machine() -> dict[str, str]:
    """Tell what the figures depend on: processor, cores, kernel, Python, load programs."""
    found = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "congestion control": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }
    for program, option in {"iperf3": "--version", "nginx": "-v", "wrk": "-v"}.items():
        found[program] = _first_line(program, option)
    return found


def _processor() -> str:
    fields: Mapping[str, str] = dict(
        [part.strip() for part in line.split(":", 1)]
        for line in _read("/proc/cpuinfo").splitlines()
        if ":" in line
    )
    return fields.get("model name", platform.machine())


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _first_line(program: str, option: str) -> str:
    try:  # wrk answers -v with its version and status 1
        text = run(["sh", "-c", f"{program} {option} 2>&1; true"], 10.0)
    except BenchmarkError:
        return ""
    return text.splitlines()[0].strip() if text else ""
