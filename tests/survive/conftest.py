"""The service as a real process that is stopped, killed, starved and started again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.processes import SCRIPTS, EchoServer, Program, Relay
from tests.ports import unused_port
from tests.real.conftest import TRACEBACK

FULL = os.environ.get("PROXYSERVICE_FULL") == "1"
"""The figures of the specification; without it they are reduced."""

PORTS = range(26000 + os.getpid() % 40 * 40, 26000 + os.getpid() % 40 * 40 + 40)


def scaled(whole: int, reduced: int) -> int:
    """How many: the figure of the specification, or enough to see it hold."""
    return whole if FULL else reduced


Relays = Callable[..., Relay]


@pytest.fixture
def relays(tmp_path: Path) -> Iterator[Relays]:
    """Start `twistd proxyservice` with these options.

    After the test those that still run are looked at (`Relay.finish`); no log has a traceback.
    """
    started: list[Relay] = []

    def start(*options: str, ports: range = PORTS) -> Relay:
        directory = tmp_path / f"relay-{len(started)}"
        started.append(Relay(directory, unused_port(), ports, *options))
        return started[-1]

    yield start
    try:
        for relay in started:
            if relay.process.poll() is None:
                relay.finish()
    finally:
        for relay in started:
            relay.kill()
    for relay in started:
        assert not TRACEBACK.search(relay.stdout + relay.stderr)


Expose = Callable[..., Program]


@pytest.fixture
def expose(tmp_path: Path) -> Iterator[Expose]:
    """Run `proxyservice expose` with a state directory of its own."""
    started: list[Program] = []

    def start(*words: object) -> Program:
        directory = tmp_path / f"expose-{len(started)}"
        state = str(directory / "state")
        program = Program(
            directory, SCRIPTS / "proxyservice", "expose", *words, STATE_DIRECTORY=state
        )
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()
    for program in started:
        assert not TRACEBACK.search(program.stdout + program.stderr)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server
