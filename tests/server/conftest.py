"""What is looked at after each test of the service, and fixtures of tests with TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leases.harness import store_thread
from tests.node.processes import Program
from tests.server.certificates import Authority
from tests.server.memory import MADE


@pytest.fixture(autouse=True)
def _all_leave() -> Iterator[None]:
    """Of each service in memory: its invariants hold, and nothing stays of who has left."""
    MADE.clear()
    yield
    made = MADE[:]
    MADE.clear()
    with store_thread():  # the test's own is over
        for relay in made:
            relay.all_leave()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """One that a relay's certificate may come from."""
    return Authority(tmp_path, "authority")


@pytest.fixture
def started() -> Iterator[list[Program]]:
    """Programs in this list are ended with the test; none may have left a traceback."""
    programs: list[Program] = []
    yield programs
    for program in programs:
        program.kill()
        said = program.stdout + program.stderr
        assert "Traceback" not in said, said
        assert "Unhandled" not in said, said
