"""Seeds, one by one: the failing one is named, with its last events and how to see it again."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from hashlib import blake2b

from proxyservice.leases.registry import LeaseRegistry
from tests.simulation.world import World


class SeedFailed(AssertionError):
    """One line of what is wrong, the last events, and the command that shows them again."""


def simulate(seed: int, registry_class: type[LeaseRegistry] = LeaseRegistry) -> World:
    """An hour. Raises SeedFailed."""
    world = World(seed, registry_class)
    collects = gc.isenabled()
    if sys.implementation.name == "cpython":  # elsewhere the collector frees not cycles alone
        gc.disable()  # cycles are left for the end: it costs less, and is the same in each run
    try:
        world.run()
    except Exception as error:
        raise SeedFailed(
            f"seed {seed}: {error or type(error).__name__}\n{world.story()}\n"
            f"again: python -m pytest tests/simulation --seed {seed}"
        ) from error
    finally:
        if collects:
            gc.enable()
    return world


def simulate_all(seeds: Iterable[int], registry_class: type[LeaseRegistry] = LeaseRegistry) -> str:
    """A few, one after the other; a digest of how they ended. Raises SeedFailed."""
    digest = blake2b(digest_size=8)
    for seed in seeds:
        world = simulate(seed, registry_class)
        digest.update(f"{world.fates}\n{world.story()}\n".encode())
    gc.collect()
    return digest.hexdigest()
