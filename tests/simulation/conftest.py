"""`--seed NUMBER`, or SIMULATION_SEED in the environment: that seed alone, to see it again."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="simulate this seed alone")


@pytest.fixture
def only_seed(request: pytest.FixtureRequest) -> int | None:
    """The seed that was asked for."""
    # The option is unknown where pytest has not loaded this file before its command line.
    seed: int | None = request.config.getoption("--seed", default=None)
    named = os.environ.get("SIMULATION_SEED")
    return int(named) if seed is None and named else seed
