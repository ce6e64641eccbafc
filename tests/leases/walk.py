"""A seeded walk through the events of leases: more steps for the time than hypothesis makes."""

from __future__ import annotations

import random

from proxyservice.leases.lease import Grant, Identity, LeaseQuota, LeaseTimes, Owner
from proxyservice.leases.table import LeaseTable
from tests.leases.joined import Joined, claimed, proved, stale_or_not

TIMES = LeaseTimes(ttl=90.0, proved_ttl=300.0, hold=5.0, quarantine=40.0)
PORTS = range(7, 10)
OTHER_RANGES = (range(8, 11), range(9, 12), range(20, 23), range(7, 13))
STRANGER = Owner(Identity(False, b"another key", b"1"), "")
OWNERS = [claimed(1), claimed(1, "a"), claimed(2), proved(1), proved(1, "a"), proved(2), proved(3)]
OWNERS.append(STRANGER)
SOURCES = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:ff::1"]
"""The last two are one source: they share the first 56 bits."""


class Walk:
    def __init__(self, seed: int, table_class: type[LeaseTable] = LeaseTable) -> None:
        self.random = random.Random(seed)
        self.joined = Joined(PORTS, TIMES, table_class)
        self.waiting: list[Grant] = []

    def run(self, steps: int) -> None:
        events = [
            *[self.acquire] * 6,
            *[self.node_gone] * 5,
            *[self.pass_time] * 3,
            self.release,
            self.revoke,
            self.decide,
            self.wanted_is_busy,
            self.joined.refresh,
            self.crash,
        ]
        for _ in range(steps):
            self.random.choice(events)()

    def acquire(self) -> None:
        pick = self.random
        wanted = pick.choice([None, None, None, *PORTS, PORTS.stop, *self.joined.ports])
        quota = LeaseQuota(pick.randint(1, 2), pick.randint(1, 3), pick.randint(1, 3))
        limits = pick.choice([None, quota])
        grant = self.joined.acquire(pick.choice(OWNERS), pick.choice(SOURCES), wanted, limits)
        if grant is None:
            return
        fate = pick.random()
        if fate < 0.3:
            self.joined.busy(grant)
        if 0.2 < fate < 0.5:
            self.joined.undo(grant)
        elif fate < 0.8:
            self.waiting.append(grant)

    def decide(self) -> None:
        """What became of the grants that are not announced yet."""
        while self.waiting:
            grant = self.waiting.pop(0)
            self.random.choice([self.joined.undo, self.joined.busy, lambda grant: None])(grant)

    def node_gone(self) -> None:
        live = [one for one in self.joined.model.leases if one.state == "live"]
        if live:
            owner, stale = self.random.choice(live).owner, self.random.random() < 0.2
            generation = stale_or_not(self.joined, owner, stale)
            self.joined.node_gone(owner, generation, hold=self.random.random() < 0.5)

    def release(self) -> None:
        owner = self.random.choice(OWNERS)
        self.joined.release(owner, stale_or_not(self.joined, owner, self.random.random() < 0.5))

    def revoke(self) -> None:
        self.joined.revoke(self.random.choice(OWNERS))

    def wanted_is_busy(self) -> None:
        self.joined.wanted_is_busy(self.random.choice([*PORTS, 1]))

    def pass_time(self) -> None:
        self.joined.pass_time(self.random.choice([0.5, 4.5, 5.0, 20.0, 40.0, 60.0, 90.0, 210.0]))

    def crash(self) -> None:
        self.waiting.clear()
        clock_at_start = self.random.choice([0.0, 5.0, 1e6])
        ports = self.random.choice([None, None, PORTS, PORTS, *OTHER_RANGES])
        self.joined.crash(clock_at_start, ports)
