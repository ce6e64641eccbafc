"""The simulation bites: five ways to get leases wrong, each seen in a few seeds, and three faults
of a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.table import LeaseTable
from proxyservice.net import foreign
from proxyservice.net.race import Race
from proxyservice.node.retry import Retry
from tests.leases.test_mutants import (
    AcknowledgesBeforeCommit,
    EndsWithoutGeneration,
    KeepsNoQuarantine,
    LivesByTheWallClock,
    ReleasesByKey,
    registries_with,
)
from tests.simulation.simulate import SeedFailed, simulate_all, simulate_nodes


@pytest.mark.heavy
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


def raises_through(what: str, failed: Any, error: BaseException) -> None:
    """No guard around what an application does."""
    raise error


def binds_all_servers(retry: Retry, waits: Any, now: float, hint_seconds: float) -> None:
    """What one relay asks for keeps the node from all of them."""
    wait_seconds = retry._turns[retry.server].backoff.failed(waits, hint_seconds)
    for turn in retry._turns:
        turn.ready_at = now + wait_seconds


_pick = Race._pick


def picks_one(race: Race) -> str | None:
    """The first address of a name, and no other."""
    return None if race._dials or race._reasons else _pick(race)


@pytest.mark.parametrize(
    ("where", "name", "mutant", "first_seed", "seen"),
    [
        (foreign, "raised", raises_through, 0, "logged"),
        (Retry, "_count", binds_all_servers, 0, "without a lease"),
        (Race, "_pick", picks_one, 8, "without a lease"),
    ],
)
def test_a_mutant_of_the_node_is_seen(
    where: Any,
    name: str,
    mutant: Callable[..., Any],
    first_seed: int,
    seen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(SeedFailed, match=seen):
        simulate_nodes(range(first_seed, first_seed + 10))
