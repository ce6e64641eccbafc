"""`python -m tests.simulation --seeds 1000 --processes 2`: many seeds; ends with status 1 when
one of them fails, and says which."""

from __future__ import annotations

import argparse
import sys
import time
from multiprocessing import Pool

from tests.simulation.simulate import SeedFailed, simulate_all, simulate_nodes

PART = 20
NODE_SHARE = 10
"""One of so many seeds is an hour of a node too."""


def part(first: int, last: int) -> str:
    """What is wrong with one of these seeds; empty: nothing."""
    try:
        simulate_all(range(first, last))
        simulate_nodes(range(first, last, NODE_SHARE))
    except SeedFailed as failed:
        return str(failed)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--digest", action="store_true", help="say what all of it came to")
    chosen = parser.parse_args()
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    if chosen.digest:
        print(simulate_all(seeds), simulate_nodes(seeds))
        return 0
    began = time.monotonic()
    parts = [(first, min(first + PART, seeds.stop)) for first in seeds[::PART]]
    with Pool(chosen.processes) as pool:
        wrong = [told for told in pool.starmap(part, parts, chunksize=1) if told]
    for told in wrong:
        print(told)
    seconds = time.monotonic() - began
    which = f"{chosen.seeds} seeds of an hour each, one in {NODE_SHARE} of a node too"
    print(f"{which}, in {seconds:.0f} s, {len(wrong)} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
