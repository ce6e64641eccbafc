"""Seeds, one by one: the failing one is named, with its last events and how to see it again."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from hashlib import blake2b

from proxyservice.leases.registry import LeaseRegistry
from tests.simulation.applications import Raised
from tests.simulation.node_world import NodeWorld
from tests.simulation.world import World


class SeedFailed(AssertionError):
    """One line of what is wrong, the last events, and the command that shows them again."""


def simulate(seed: int, registry_class: type[LeaseRegistry] = LeaseRegistry) -> World:
    """An hour of the service. Raises SeedFailed."""
    world = World(seed, registry_class)
    _run(world)
    return world


def simulate_node(seed: int) -> NodeWorld:
    """An hour of a node. Raises SeedFailed."""
    world = NodeWorld(seed)
    _run(world)
    return world


def _run(world: World | NodeWorld) -> None:
    collects = gc.isenabled()
    if sys.implementation.name == "cpython":  # elsewhere the collector frees not cycles alone
        gc.disable()  # cycles are left for the end: it costs less, and is the same in each run
    try:
        world.run()
    except (Exception, SystemExit, Raised) as error:
        whose = "node, seed" if isinstance(world, NodeWorld) else "seed"
        raise SeedFailed(
            f"{whose} {world.seed}: {error or type(error).__name__}\n{world.story()}\n"
            f"again: python -m pytest tests/simulation --seed {world.seed}"
        ) from error
    finally:
        if collects:
            gc.enable()


def simulate_all(seeds: Iterable[int], registry_class: type[LeaseRegistry] = LeaseRegistry) -> str:
    """A few, one after the other; a digest of how they ended. Raises SeedFailed."""
    digest = blake2b(digest_size=8)
    for seed in seeds:
        world = simulate(seed, registry_class)
        digest.update(f"{world.fates}\n{world.story()}\n".encode())
    gc.collect()
    return digest.hexdigest()


def simulate_nodes(seeds: Iterable[int]) -> str:
    """The same of nodes. Raises SeedFailed."""
    digest = blake2b(digest_size=8)
    for seed in seeds:
        world = simulate_node(seed)
        digest.update(f"{world.fates}\n{world.story()}\n".encode())
    gc.collect()
    return digest.hexdigest()
