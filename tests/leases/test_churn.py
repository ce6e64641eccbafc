"""The address of a proved key on a full range, while others come and go as fast as they like.

Its owner is there for 10 minutes of every 180. A crowd of a thousand sources, and neighbours behind
the owner's own one, ask with new keys, leave, release, stay, or only claim. Simulated time, on the
real table; `PROXYSERVICE_FULL=1` for all 24 hours.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Identity, LeaseQuota, LeaseTimes, Owner
from proxyservice.leases.table import LeaseTable
from tests.leases.joined import proved
from tests.leases.test_mutants import BreaksPromises

FULL = bool(os.environ.get("PROXYSERVICE_FULL"))
HOURS = 24 if FULL else 7
MINUTE = 60.0
PORTS = range(20000, 20200)
HOME = "203.0.113.9"
CROWD = [f"198.18.{number >> 8}.{number & 255}" for number in range(1000)]
ROUND_MINUTES, THERE_MINUTES = 180, 10
VICTIM = proved(1)


class Churn:
    """So many ask in a minute: ``neighbours`` from the owner's source, a ``crowd`` from others."""

    def __init__(self, table: LeaseTable, neighbours: int, crowd: int) -> None:
        self.table = table
        self.neighbours, self.crowd = neighbours, crowd
        self.random = random.Random(5)
        self.now = 0.0
        self.seen: Counter[str] = Counter()
        self._keys = 0

    def run(self, minutes: int) -> None:
        """Raises AssertionError when the address is lost, RefusedError when its owner is."""
        port = 0
        for minute in range(minutes):
            self.now = minute * MINUTE
            if minute % ROUND_MINUTES == 0:
                grant = self.table.acquire(VICTIM, self.now, HOME, limits=LeaseQuota())
                assert port in (0, grant.lease.port), f"it had {port}, now {grant.lease.port}"
                port = grant.lease.port
                self.seen["came back"] += 1
            if minute % ROUND_MINUTES == THERE_MINUTES:
                self.table.holding_ended(VICTIM, grant.generation, self.now)
            for source in (
                *[HOME] * self.neighbours,
                *self.random.sample(CROWD, self.crowd),
            ):
                self.somebody(source)
            lease = self.table.of_owner(VICTIM)
            assert lease is not None, f"its lease is gone after {minute} minutes"
            assert lease.port == port

    def somebody(self, source: str) -> None:
        """A new key asks, and then does one thing or another."""
        self._keys += 1
        key = self._keys.to_bytes(32, "big")
        owner = Owner(Identity(self.random.random() < 0.8, key), "")
        try:
            grant = self.table.acquire(owner, self.now, source, limits=LeaseQuota())
        except RefusedError as error:
            self.seen["refused"] += 1
            self.seen["refused for quota"] += "quota" in error.reason
            return
        self.seen["granted"] += 1
        self.seen["granted in the place of another"] += len(grant.released)
        fate = self.random.random()
        if fate < 0.2:
            self.table.release(owner, grant.generation, self.now)
        elif fate < 0.9:
            self.table.holding_ended(owner, grant.generation, self.now)


@pytest.mark.heavy
@pytest.mark.parametrize(("neighbours", "crowd"), [(40, 0), (0, 60), (4, 60)])
def test_a_proved_address_survives_its_neighbours_and_a_thousand_sources(
    neighbours: int, crowd: int
) -> None:
    churn = Churn(LeaseTable(PORTS, LeaseTimes(), 1), neighbours, crowd)
    churn.run(HOURS * 60)
    seen, counts = churn.seen, churn.table.counts()
    print(f"{HOURS} h, {neighbours} neighbours and {crowd} others a minute: {dict(seen)}, {counts}")
    if crowd:
        assert seen["refused"] > seen["granted"] > len(PORTS), "the range was contested"
        assert counts["free"] + counts["busy"] == 0, "the range is full"
    else:
        assert seen["refused for quota"] > 1000, "the source is full"
        assert seen["granted in the place of another"], "beyond its promise"


def test_the_churn_takes_the_address_where_a_quota_breaks_a_promise() -> None:
    with pytest.raises(AssertionError, match="its lease is gone"):
        Churn(BreaksPromises(PORTS, LeaseTimes(), 1), 40, 0).run(HOURS * 60)
