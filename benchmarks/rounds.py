"""Interleaved rounds: every load visits every relay in turn, again and again.

All relays are up at the same time and idle until it is their turn, so that two
figures that are compared were measured seconds apart. The first of a round
changes from round to round.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from benchmarks.measure import Cost, Link, Load, Row
from benchmarks.measure.base import Scale
from benchmarks.origin import Origin
from benchmarks.peers import Peer
from benchmarks.processes import BenchmarkError
from benchmarks.results import Results
from benchmarks.scene import Scene

Say = Callable[[str], None]


class LoadRounds:
    """Rounds of loads over the relays of one scene."""

    def __init__(
        self,
        scene: Scene,
        peers: Sequence[type[Peer]],
        results: Results,
        say: Say,
        prefix: str = "",
        growth_factor: float = 1.0,
    ) -> None:
        self._origin = Origin(scene)
        self._kinds = peers
        self._scene = scene
        self._results = results
        self._say = say
        self._prefix = prefix
        self._growth_factor = growth_factor
        self._links: dict[str, Link] = {}

    def start(self) -> None:
        """Start the origin and each relay; a relay that does not start is left out, and said."""
        self._origin.start()
        for kind in self._kinds:
            self._start_peer(kind(self._scene))

    def stop(self) -> None:
        for link in self._links.values():
            link.peer.stop()
        self._links.clear()
        self._origin.stop()

    def warm_up(self, loads: Sequence[Load], seconds: float) -> None:
        """One round that is not counted: compilers at run time (PyPy, V8) are slow at first."""
        for load in loads:
            for link in self._links.values():
                with contextlib.suppress(BenchmarkError):  # it will be told when it counts
                    load.measure(link, seconds)

    def run(self, loads: Sequence[Load], number: int, seconds: float) -> None:
        """One round, the `number`-th; what has to grow gets `growth_factor` times as long."""
        names = list(self._links)
        turn = number % len(names) if names else 0
        for load in loads:
            for name in names[turn:] + names[:turn]:
                self._measure(load, name, seconds * (self._growth_factor if load.grows else 1.0))

    def _measure(self, load: Load, name: str, seconds: float) -> None:
        figures: dict[str, float] = {}
        link = self._links.get(name)
        if link is not None:
            try:
                figures = load.measure(link, seconds)
            except BenchmarkError as error:
                self._fail(f"{self._prefix}{load.name}, {name}: {error}")
                self._restart(link)
        for row in load.rows:
            if row.name in figures or row is load.rows[0]:
                self._results.add(self._named(row), name, figures.get(row.name))
        told = ", ".join(
            f"{row.name} {figures[row.name]:.4g}" for row in load.rows if row.name in figures
        )
        self._say(f"  {self._prefix}{name:13} {told or 'failed'}")

    def _named(self, row: Row) -> Row:
        if not self._prefix:
            return row
        return dataclasses.replace(row, name=self._prefix + row.name, title=f"delayed: {row.title}")

    def _restart(self, link: Link) -> None:
        del self._links[link.peer.name]
        link.peer.stop()
        self._start_peer(link.peer)

    def _start_peer(self, peer: Peer) -> None:
        try:
            self._links[peer.name] = Link(peer, peer.start(self._origin.ports))
        except BenchmarkError as error:
            peer.stop()
            self._fail(f"{self._prefix}start of {peer.name}: {error}")

    def _fail(self, text: str) -> None:
        self._results.failures.append(text)
        self._say(f"! {text}")


def run_costs(
    scene: Scene,
    peers: Sequence[type[Peer]],
    costs: Sequence[Cost],
    results: Results,
    scale: Scale,
    say: Say,
) -> None:
    """Each cost once, at each relay that it applies to; relays are started and stopped by turns."""
    origin = Origin(scene)
    try:
        origin.start()
        for cost in costs:
            for kind in peers:
                if cost.applies(kind):
                    _measure_cost(cost, kind(scene), origin, results, scale, say)
    finally:
        origin.stop()


def _measure_cost(
    cost: Cost, peer: Peer, origin: Origin, results: Results, scale: Scale, say: Say
) -> None:
    figures: dict[str, float] = {}
    try:
        figures = cost.measure(peer, origin.ports, scale)
    except (BenchmarkError, OSError) as error:
        results.failures.append(f"{cost.name}, {peer.name}: {error}")
        say(f"! {results.failures[-1]}")
    finally:
        peer.stop()
    for row in cost.rows:
        if row.name in figures:
            results.add(row, peer.name, figures[row.name])
    say(f"  {peer.name:13} " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
