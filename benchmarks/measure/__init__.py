"""What is measured: loads at every relay (``LOADS``), and costs of this project (``COSTS``)."""

from __future__ import annotations

from benchmarks.measure.base import Cost, Link, Load, Row
from benchmarks.measure.connections import Connections
from benchmarks.measure.growth import LeaseGrowth, StreamGrowth
from benchmarks.measure.http import Http
from benchmarks.measure.idle import IdleLeases, IdleStreams
from benchmarks.measure.registration import Registration
from benchmarks.measure.relay import MessageRelay
from benchmarks.measure.round_trip import RoundTrip
from benchmarks.measure.throughput import Throughput

# In the order of the table. Each is run at every relay in every round.
LOADS: tuple[Load, ...] = (
    Throughput(streams=1, down=False),
    Throughput(streams=1, down=True),
    Throughput(streams=8, down=False),
    Throughput(streams=8, down=True),
    RoundTrip(),
    Connections(),
    Http(keep_alive=True),
    Http(keep_alive=False),
)
# Each starts what it needs itself and is run once a round.
COSTS: tuple[Cost, ...] = (
    MessageRelay(),
    IdleStreams(),
    IdleLeases(),
    Registration(),
    LeaseGrowth(),
    StreamGrowth(),
)

__all__ = ["COSTS", "LOADS", "Cost", "Link", "Load", "Row"]
