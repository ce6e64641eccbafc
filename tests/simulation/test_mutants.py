"""The simulation bites: five ways to get leases wrong, each seen in a few seeds."""

from __future__ import annotations

import pytest

from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.table import LeaseTable
from tests.leases.test_mutants import (
    AcknowledgesBeforeCommit,
    EndsWithoutGeneration,
    KeepsNoQuarantine,
    LivesByTheWallClock,
    ReleasesByKey,
    registries_with,
)
from tests.simulation.simulate import SeedFailed, simulate_all


@pytest.mark.parametrize(
    ("mutant", "first_seed", "seen"),
    [
        (ReleasesByKey, 415, "was connected and lost"),
        (EndsWithoutGeneration, 0, "is there, and counts as gone"),
        (KeepsNoQuarantine, 0, "quarantine"),
        (AcknowledgesBeforeCommit, 0, "was announced before it was on disk"),
        (LivesByTheWallClock, 0, "lost"),
    ],
)
def test_a_mutant_is_seen(
    mutant: type[LeaseTable] | type[LeaseRegistry], first_seed: int, seen: str
) -> None:
    seeds = range(first_seed, first_seed + 10)
    with pytest.raises(SeedFailed, match=seen):
        simulate_mutant(mutant, seeds)


def simulate_mutant(mutant: type[LeaseTable] | type[LeaseRegistry], seeds: range) -> None:
    if issubclass(mutant, LeaseRegistry):
        simulate_all(seeds, mutant)
        return
    with registries_with(mutant):
        simulate_all(seeds)
