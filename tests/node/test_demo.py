"""`proxyservice demo` as people start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEVEN_STEPS = [
    r"1\. node 1 opens main connection 1: 127\.0\.0\.1:\d+ -> 127\.0\.0\.1:\d+",
    r"2\. the service listens for node 1 on proxy port 1: 127\.0\.0\.1:\d+",
    r"3\. node 1 dials proxy port 2, connection 3: 127\.0\.0\.1:\d+ -> 127\.0\.0\.1:\d+",
    r"4\. node 1 sends 1048576 bytes on connection 3",
    r"5\. they arrive on main connection 2, from tcp://127\.0\.0\.1:\d+; all bytes equal",
    r"6\. node 2 dials proxy port 1, connection 4: 127\.0\.0\.1:\d+ -> 127\.0\.0\.1:\d+",
    r"7\. they arrive on main connection 1, from tcp://127\.0\.0\.1:\d+; all bytes equal",
]


@pytest.mark.process
def test_the_demo_shows_the_seven_steps_and_ends_by_itself() -> None:
    command = [sys.executable, "-m", "proxyservice", "demo"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = iter(ran.stdout.splitlines())
    for step in SEVEN_STEPS:
        assert any(re.fullmatch(step, line) for line in lines), step


@pytest.mark.process
def test_an_interrupted_demo_ends_and_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proxyservice", "demo"]
    demo = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    with demo:
        try:
            assert demo.stdout is not None
            assert demo.stdout.readline().startswith("service: ")
            demo.send_signal(signal.SIGINT)
            _, said = demo.communicate(timeout=60)
        finally:
            demo.kill()
    assert (demo.returncode, said) in ((1, "Error: interrupted\n"), (0, "")), "0: it was faster"
    assert list(tmp_path.iterdir()) == []


INTERRUPTED_AT_THE_START = """
import os, signal
from unittest import mock
import proxyservice.tap
from proxyservice.node.cli import main

made = proxyservice.tap.makeService

def interrupted(options):
    service = made(options)
    os.kill(os.getpid(), signal.SIGINT)
    return service

with mock.patch("proxyservice.tap.makeService", interrupted):
    main(["demo"])
"""


@pytest.mark.process
def test_a_signal_while_the_service_begins_ends_the_demo(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT_THE_START],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (1, "Error: interrupted\n")
    assert list(tmp_path.iterdir()) == []
