"""The real service, real programs behind and in front of it, and what all of them must not say."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.processes import SCRIPTS, EchoServer, Program, Relay
from tests.ports import unused_port

TRACEBACK = re.compile("Traceback|Unhandled|mistake of ours")
FULL = os.environ.get("PROXYSERVICE_FULL") == "1"
"""The figures of the specification; without it they are reduced."""

PORTS = range(28000 + os.getpid() % 40 * 40, 28000 + os.getpid() % 40 * 40 + 40)


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where one of these programs is absent."""
    missing = [name for name in programs if not program(name)]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


def program(name: str) -> str | None:
    """Where it is, also when it is not meant for users."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def address_of(exposing: Program, target: object) -> str:
    return exposing.wait_for(f"exposed {re.escape(str(target))} at (\\S+)")[1]


def socket_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """One for all tests of a module that leave it running."""
    relay = Relay(tmp_path_factory.mktemp("relay"), unused_port(), PORTS)
    yield relay
    try:
        relay.finish()
    finally:
        relay.kill()
    assert not TRACEBACK.search(relay.stdout + relay.stderr)


@pytest.fixture
def own_relay(tmp_path: Path) -> Iterator[Relay]:
    """One that the test may kill."""
    relay = Relay(tmp_path / "relay", unused_port(), PORTS)
    yield relay
    try:
        if relay.process.poll() is None:
            relay.finish()
    finally:
        relay.kill()
    assert not TRACEBACK.search(relay.stdout + relay.stderr)


Run = Callable[..., Program]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start a program with a state directory of this test; in the end it has no traceback."""
    programs: list[Program] = []

    def start(*command: object, **environment: str) -> Program:
        environment.setdefault("STATE_DIRECTORY", str(tmp_path / "state"))
        started = Program(tmp_path / f"program-{len(programs)}", *command, **environment)
        programs.append(started)
        return started

    yield start
    for started in programs:
        started.kill()
    for started in programs:
        assert not TRACEBACK.search(started.stdout + started.stderr)


@pytest.fixture
def expose(run: Run) -> Run:
    return lambda *words, **environment: run(
        SCRIPTS / "proxyservice", "expose", *words, **environment
    )


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server
