"""Fixtures of tests with TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.processes import Program
from tests.server.certificates import Authority


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
