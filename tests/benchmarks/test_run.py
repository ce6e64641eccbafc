"""The benchmark itself runs: real relays, real load programs, and a slow wire that is slow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tools
from benchmarks.delay import DELAY_MS, DelayedScene
from benchmarks.measure.base import Link
from benchmarks.measure.round_trip import RoundTrip
from benchmarks.origin import Ports
from benchmarks.peers.direct import Direct
from benchmarks.processes import BenchmarkError, Process, settled_cpu_seconds, stop_all, wait_until
from benchmarks.scene import free_port

ROOT = Path(__file__).parents[2]
PROGRAMS = ("cc", "nginx", "iperf3", "socat")
RUN_SECONDS = 60

pytestmark = pytest.mark.process


def needs(*programs: str) -> pytest.MarkDecorator:
    absent = [program for program in programs if tools.find(program) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


@needs(*PROGRAMS)
def test_one_command_measures_and_writes_its_tables(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "round_trip"]
    command += ["--peers", "direct,socat", "--results", str(tmp_path), "--warm-up", "0.1"]
    command += ["--installed", f"elsewhere={Path(sys.executable).parent}"]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["failures"] == []
    samples = content["samples"]["round_trip_p50"]
    assert set(samples) == {"direct", "socat", "elsewhere"}
    assert all(len(values) == 1 and values[0] > 0 for values in samples.values())
    assert "| round trip of 64 B, p50" in (tmp_path / "results.md").read_text()


@needs("cc", "ip")
def test_the_slow_wire_adds_its_delay(tmp_path: Path) -> None:
    delayed = DelayedScene(tmp_path)
    try:
        delayed.start()
    except BenchmarkError as error:
        pytest.skip(f"network namespaces are not permitted: {error}")
    try:
        scene, port = delayed.scene, free_port()
        echo = [tools.compiled("echo", tmp_path), scene.node.address, str(port)]
        scene.start(scene.node, "echo", echo)
        link = Link(Direct(scene), Ports(scene.node.address, port, port, port))
        figures: dict[str, float] = {}
        wait_until(lambda: _measured(link, figures), RUN_SECONDS, "the echo server to listen")
    finally:
        delayed.stop()
        stop_all()
    assert DELAY_MS * 1000 <= figures["round_trip_p50"] < 10 * DELAY_MS * 1000


def _measured(link: Link, figures: dict[str, float]) -> bool:
    try:
        figures.update(RoundTrip().measure(link, 1.0))
    except BenchmarkError:
        return False
    return True


@needs("sh")
def test_cpu_of_children_that_ended_is_counted(tmp_path: Path) -> None:
    spin = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    script = f"sh -c '{spin}'; sh -c '{spin}'; echo done; sleep 60"
    process = Process([shutil.which("sh") or "sh", "-c", script], tmp_path / "log")
    try:
        process.wait_for("done", RUN_SECONDS)
        assert settled_cpu_seconds([process]) > 0.05
    finally:
        process.stop()
