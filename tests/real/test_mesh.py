"""A mesh of nodes that behave as deployed ones do: one breaks and restarts, no other notices."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.processes import Program, Relay, wait_until
from tests.ports import unused_port
from tests.real.conftest import FULL, PORTS, Run

pytestmark = [pytest.mark.process, pytest.mark.heavy]

NODE = Path(__file__).with_name("deployed_node.py")
NAMES = ("ann", "bob", "cid", "dot")
ROUNDS = 20 if FULL else 3
STOPS_SECONDS = 8.0 if FULL else 2.0
STILL_HEARD_SECONDS = 1.0
"""A node that has lost its main connection still says something to its peers."""


class Mesh:
    """Four nodes, and what they have written down."""

    def __init__(self, directory: Path, run: Run, relay: Relay) -> None:
        self.directory = directory
        directory.mkdir()
        self.nodes: dict[str, Program] = {}
        for name in NAMES:
            self.nodes[name] = run(sys.executable, NODE, relay.port, name, directory)
        wait_until(self.all_hear_all, 60, self)

    def seen(self, name: str) -> dict[str, Any]:
        path = self.directory / f"{name}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {"answers": {}}

    def answers(self) -> dict[str, dict[str, int]]:
        return {name: self.seen(name)["answers"] for name in NAMES}

    def all_hear_all(self, before: dict[str, dict[str, int]] | None = None) -> bool:
        """Each has had an answer of each other one, since `before`."""
        before = before or {}
        return all(
            sum(count > before.get(name, {}).get(peer, 0) for peer, count in answers.items())
            == len(NAMES) - 1
            for name, answers in self.answers().items()
        )

    def events(self, name: str) -> list[str]:
        return list(self.seen(name).get("events", []))

    def __repr__(self) -> str:
        return repr({name: self.seen(name) for name in NAMES})


@pytest.fixture
def relay_with(tmp_path: Path) -> Iterator[Any]:
    started: list[Relay] = []

    def start(*options: str) -> Relay:
        started.append(Relay(tmp_path / "relay", unused_port(), PORTS, *options))
        return started[-1]

    yield start
    for relay in started:
        relay.kill()
        assert "Traceback" not in relay.stdout + relay.stderr


def break_and_restart(mesh: Mesh, name: str, how: int) -> None:
    """By a bad frame, by a kill, or by a stop: away for a while, and there again."""
    node = mesh.nodes[name]
    if how == 0:
        node.process.send_signal(signal.SIGUSR1)
        time.sleep(STILL_HEARD_SECONDS)
    if how == 2:
        node.process.send_signal(signal.SIGSTOP)
        time.sleep(STOPS_SECONDS)
    node.kill()
    (mesh.directory / f"{name}.json").unlink()
    if how != 2:
        time.sleep(STOPS_SECONDS)
    node.again()


def test_one_of_four_breaks_stops_and_restarts_and_no_other_loses_its_main_connection(
    tmp_path: Path, run: Run, relay_with: Any
) -> None:
    relay = relay_with()
    mesh = Mesh(tmp_path / "mesh", run, relay)
    addresses = {name: mesh.seen(name)["address"] for name in NAMES}
    back: list[float] = []
    for number in range(ROUNDS):
        breaks = NAMES[number % len(NAMES)]
        before = mesh.answers()
        before[breaks] = {}
        events = {name: len(mesh.events(name)) for name in NAMES}
        break_and_restart(mesh, breaks, number % 3)
        begun = time.monotonic()
        wait_until(lambda b=before: mesh.all_hear_all(b), 40, mesh)
        back.append(time.monotonic() - begun)
        for name in NAMES:
            news = mesh.events(name)[events[name] if name != breaks else 0 :]
            assert not [one for one in news if "main" in one or "gave up" in one], (name, news)
        assert {name: mesh.seen(name)["address"] for name in NAMES} == addresses
    print(
        f"\nfigure: {ROUNDS} rounds of {STOPS_SECONDS:g} s: main connections of others lost 0; "
        f"all answer all {max(back):.1f} s after a restart at most"
    )


def test_without_a_hold_the_others_go_with_it(tmp_path: Path, run: Run, relay_with: Any) -> None:
    """The nodes of this test do notice: it is the hold that spares them."""
    mesh = Mesh(tmp_path / "mesh", run, relay_with("--hold-messages", "0"))
    break_and_restart(mesh, "ann", 0)
    lost = [name for name in NAMES[1:] if any("main" in one for one in mesh.events(name))]
    assert lost == list(NAMES[1:])
