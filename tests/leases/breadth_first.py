"""All states that a few events lead to, nearest first."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

W = TypeVar("W")


def visit_states(
    start: W,
    events: Callable[[W], Iterable[Callable[[W], None]]],
    seen_as: Callable[[W], Hashable],
    most: int,
) -> tuple[int, bool]:
    """Try every event in every state, in at most so many; how deep it went, and if that was all.

    Each event gets a copy of its own. States that are ``seen_as`` the same are one.
    """
    seen, frontier, depth = {seen_as(start)}, [pickle.dumps(start)], 0
    while frontier and len(seen) < most:
        depth += 1
        following = []
        for state in frontier:
            for event in events(pickle.loads(state)):
                world = pickle.loads(state)
                event(world)
                found = seen_as(world)
                if found not in seen and len(seen) < most:
                    seen.add(found)
                    following.append(pickle.dumps(world))
        frontier = following
    return depth, not frontier
