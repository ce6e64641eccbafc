"""The two kinds of measurement, and the rows of the table that they fill.

A `Load` runs against any relay that is up; a `Cost` starts what it needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.processes import run, settled_cpu_seconds

# A load program that is told to run S seconds gets this long to start and end.
SPARE_SECONDS = 20.0


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure with its unit, and which way is better."""

    name: str
    title: str
    unit: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class Link:
    """A relay that is up, as a load sees it."""

    peer: Peer
    ports: Ports

    def visit(self, command: Sequence[str], seconds: float) -> str:
        """Run a load program on the visitors' side; what it printed."""
        return run(self.peer.scene.relay.command(command), seconds + SPARE_SECONDS)

    def cpu_seconds(self) -> tuple[float, float]:
        """Spent so far by the server end and by the node end."""
        server, node = self.peer.server_end, self.peer.node_end
        return settled_cpu_seconds(server), settled_cpu_seconds(node)


@dataclass(frozen=True)
class Scale:
    """How much: full, or reduced by ``--quick``."""

    idle_streams: int = 10_000
    idle_leases: int = 10_000
    registrations: int = 5_000
    growth_leases: tuple[int, int] = (500, 5_000)
    growth_streams: tuple[int, int] = (100, 1_000)
    relay_seconds: float = 3.0
    warm_up_seconds: float = 0.0


QUICK = Scale(200, 200, 200, (50, 500), (10, 100), 0.3)


class Load(ABC):
    """A measurement at a running relay."""

    name: str
    rows: tuple[Row, ...]
    # Whether windows and congestion control have to grow first, which takes seconds on a slow wire.
    grows: ClassVar[bool] = False

    @abstractmethod
    def measure(self, link: Link, seconds: float) -> dict[str, float]:
        """Load for about `seconds`; a figure for each of `rows`, by name."""


class Cost(ABC):
    """A measurement that starts its own relay."""

    name: str
    rows: tuple[Row, ...]

    @abstractmethod
    def measure(self, peer: Peer, origin: Ports, scale: Scale) -> dict[str, float]:
        """Start `peer`, measure, leave stopping it to the caller; a figure for each row."""

    def applies(self, peer: type[Peer]) -> bool:
        """Whether it can be asked of this relay: of this project's own, unless said otherwise."""
        return peer.has_costs


__all__ = ["QUICK", "Cost", "Link", "Load", "Row", "Scale"]
