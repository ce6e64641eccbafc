"""Visitors that come and go: T15."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.kit import GoodPair
from tests.attacks.running import RunningService, figure, full, scaled
from tests.node.processes import wait_until

pytestmark = [pytest.mark.process, pytest.mark.heavy]

ROUNDS = 200
LEAST_SECONDS = 0.05
"""Below it a doubled p99 says more about the machine than about the service."""


def test_t15_rapid_open_and_reset(tmp_path: Path) -> None:
    """100,000 open and RST: the node stays, the p99 of another node is at most doubled."""
    count = scaled(100_000, 3_000)
    with (
        RunningService(tmp_path) as service,
        GoodPair(service, 1) as attacked,
        GoodPair(service, 2) as other,
    ):
        calm = other.slowest(ROUNDS)
        descriptors = service.descriptors
        words = [sys.executable, "-m", "tests.attacks.reset_storm", str(attacked.port), str(count)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as attack:
            took = []
            while attack.poll() is None:
                took.append(other.relay_one())
            assert attack.stdout is not None
            assert int(attack.stdout.read()) > count * 0.99
        took.sort()
        figure("p99 of another node, calm", calm * 1000, "ms")
        figure("p99 of another node, attacked", took[len(took) * 99 // 100] * 1000, "ms")
        if full():
            assert took[len(took) * 99 // 100] < max(2 * calm, LEAST_SECONDS)
        attacked.relay_one()
        wait_until(lambda: service.descriptors <= descriptors, what="descriptors at baseline")
