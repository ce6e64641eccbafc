"""A relay is lost and comes back from its backup on another machine: no node has to be told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.processes import SCRIPTS, EchoServer, Program, Relay, visit, wait_until
from tests.survive.conftest import PORTS, TRACEBACK, Relays

pytestmark = [pytest.mark.process, pytest.mark.heavy]

NODES = 50
RANGE = range(PORTS.start, PORTS.start + NODES + 10)
BACK_SECONDS = 90.0


class Nodes(Program):
    """All of them."""

    def __init__(self, directory: Path, relay: Relay, target: int) -> None:
        self.keys = directory / "keys"
        module = ("-m", "tests.survive.many_nodes")
        super().__init__(directory, sys.executable, *module, relay.via, target, self.keys, NODES)

    @property
    def addressed(self) -> list[dict[int, tuple[str, int]]]:
        """For each time that all nodes got one: their addresses and generations, by number."""
        times: list[dict[int, tuple[str, int]]] = []
        for line in self.stdout.splitlines():
            number, address, generation = line.split()
            fitting = [one for one in times if int(number) not in one]
            if not fitting:
                times.append({})
                fitting = times[-1:]
            fitting[0][int(number)] = (address, int(generation))
        return [one for one in times if len(one) == NODES]

    @property
    def pins(self) -> list[str]:
        return [path.read_text() for path in sorted(self.keys.glob("*/known-relays"))]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Nodes]]:
    started: list[Nodes] = []
    yield started
    for one in started:
        one.kill()
        assert not TRACEBACK.search(one.stdout + one.stderr)


def run(*words: object) -> str:
    ran = subprocess.run(
        [SCRIPTS / "proxyservice", *map(str, words)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_all_nodes_come_back_to_their_ports_by_themselves(
    relays: Relays, echo: EchoServer, tmp_path: Path, nodes: list[Nodes]
) -> None:
    lost = relays(ports=RANGE)
    crowd = Nodes(tmp_path / "crowd", lost, echo.port)
    nodes.append(crowd)
    wait_until(lambda: crowd.addressed, BACK_SECONDS, "50 addresses")
    pins = crowd.pins
    assert len(pins) == NODES

    run("backup", tmp_path / "relay.backup", "--state-dir", lost.directory / "state")
    lost.kill()
    shutil.rmtree(lost.directory / "state")
    elsewhere = tmp_path / "elsewhere"
    said = run("restore", tmp_path / "relay.backup", "--state-dir", elsewhere / "state")
    assert "Two relays must not run from one backup" in said
    again = Relay(elsewhere, lost.port, RANGE)
    try:
        wait_until(lambda: len(crowd.addressed) == 2, BACK_SECONDS, "50 addresses again")
        before, after = crowd.addressed
        assert len({address for address, _ in before.values()}) == NODES
        for number in range(NODES):
            assert after[number][0] == before[number][0]
            assert after[number][1] > before[number][1]
        assert crowd.pins == pins
        assert "gave up" not in crowd.stdout
        for address, _ in after.values():
            assert visit(address, b"hello") == b"hello"
        assert crowd.end() == 0
        again.finish()
    finally:
        again.kill()
    assert not TRACEBACK.search(again.stdout + again.stderr)
