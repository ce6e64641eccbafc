"""An hour of the service for each seed; `python -m tests.simulation` does more of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.simulate import SeedFailed, simulate, simulate_all
from tests.simulation.world import World

PARTS, PART = 15, 10
LIGHT_PARTS = 2


def _weighed(part: int) -> object:
    return pytest.param(part, marks=[pytest.mark.heavy] if part >= LIGHT_PARTS else [])


@pytest.mark.parametrize("part", map(_weighed, range(PARTS)))
def test_an_hour_of_each_seed_keeps_every_promise(part: int, only_seed: int | None) -> None:
    if only_seed is None:
        simulate_all(range(part * PART, part * PART + PART))
    elif part == only_seed % PARTS:
        simulate(only_seed)


def test_much_happens_in_it() -> None:
    """Else nothing would be shown: visitors of both kinds are served, others are not."""
    fates: dict[str, int] = {}
    for seed in range(3):
        for fate, times in simulate(seed).fates.items():
            fates[fate] = fates.get(fate, 0) + times
    for fate in ("is served", "is refused", "is lost", "relayed"):
        assert fates[fate] > 10, fates


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
