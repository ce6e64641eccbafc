"""An hour of the service, and of a node, for each seed; `python -m tests.simulation` does more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.node_world import NodeWorld
from tests.simulation.simulate import (
    SeedFailed,
    simulate,
    simulate_all,
    simulate_node,
    simulate_nodes,
)
from tests.simulation.world import World

PARTS, PART = 15, 10
LIGHT_PARTS = 1
FEW = 3
"""Seeds of a light part."""


def _seeds(part: int) -> int:
    return FEW if part < LIGHT_PARTS else PART


def _weighed(part: int) -> object:
    return pytest.param(part, marks=[pytest.mark.heavy] if part >= LIGHT_PARTS else [])


@pytest.mark.parametrize("part", list(map(_weighed, range(PARTS))))
def test_an_hour_of_each_seed_keeps_every_promise(part: int, only_seed: int | None) -> None:
    if only_seed is None:
        simulate_all(range(part * PART, part * PART + _seeds(part)))
    elif part == only_seed % PARTS:
        simulate(only_seed)


@pytest.mark.parametrize("part", list(map(_weighed, range(PARTS))))
def test_an_hour_of_each_seed_of_a_node_costs_it_nothing_but_bad_relays(
    part: int, only_seed: int | None
) -> None:
    if only_seed is None:
        simulate_nodes(range(part * PART, part * PART + _seeds(part)))
    elif part == only_seed % PARTS:
        simulate_node(only_seed)


def test_much_happens_to_a_node() -> None:
    fates: dict[str, int] = {}
    for seed in (2, 3, 5):
        for fate, times in simulate_node(seed).fates.items():
            fates[fate] = fates.get(fate, 0) + times
    for fate in ("is served", "is reset", "is heard", "waits", "has"):
        assert fates[fate] > 10, fates


def test_much_happens_in_it() -> None:
    """Else nothing would be shown: visitors of both kinds are served, others are not."""
    fates: dict[str, int] = {}
    for seed in range(3):
        for fate, times in simulate(seed).fates.items():
            fates[fate] = fates.get(fate, 0) + times
    for fate in ("is served", "is refused", "is lost", "relayed"):
        assert fates[fate] > 10, fates


@pytest.mark.heavy
def test_a_seed_is_the_same_in_every_process() -> None:
    """However the hashes of strings fall."""
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "2", "--digest"]
    digests = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": number}, capture_output=True, check=True
        ).stdout
        for number in ("1", "2")
    }
    assert len(digests) == 1


def test_a_node_that_fails_tells_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(world: NodeWorld) -> None:
        raise AssertionError("a promise is broken")

    monkeypatch.setattr(NodeWorld, "_calm_down", failing)
    with pytest.raises(SeedFailed) as caught:
        simulate_node(5)
    told = str(caught.value)
    assert told.startswith("node, seed 5: a promise is broken\n")
    assert told.endswith("python -m pytest tests/simulation --seed 5")


def test_a_seed_that_fails_tells_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(world: World) -> None:
        assert not world.quiet, "a promise is broken"

    monkeypatch.setattr(World, "_stop_for_good", failing)
    with pytest.raises(SeedFailed) as caught:
        simulate(5)
    told = str(caught.value)
    assert told.startswith("seed 5: a promise is broken\n")
    assert told.endswith("python -m pytest tests/simulation --seed 5")
    assert "the log: " in told
