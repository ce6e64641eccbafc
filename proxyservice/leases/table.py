"""The rules of leases: a pure table from owners to ports.

`now` is an argument, "when is your next deadline?" an answer. Every operation
is O(log n) at most; a refused one changes nothing. Invariants are listed in
docs/leases.md and checked by tests/leases.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from math import inf

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Grant, Lease, LeaseState, LeaseTimes, Owner
from proxyservice.wire import proxyservice_pb2 as pb

BUSY_SECONDS = 60.0
"""A port that could not be bound is tried again after this."""

EPOCH_SHIFT = 32
"""A generation is the epoch of the start, then a counter: it rises across restarts unstored."""


class LeaseTable:
    """Who has which port of `ports` (a range); `epoch` rises with every start."""

    def __init__(self, ports: range, times: LeaseTimes, epoch: int) -> None:
        self._times = times
        self._generation = epoch << EPOCH_SHIFT
        self._ports = ports
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(ports)
        self._busy: OrderedDict[int, float] = OrderedDict()  # port -> tried again at
        self._quarantined: OrderedDict[int, float] = OrderedDict()  # port -> free at
        self._by_owner: dict[Owner, Lease] = {}
        self._by_port: dict[int, Lease] = {}
        self._expiries: list[tuple[float, int]] = []  # (expires_at, port), stale ones included

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._by_owner.values())

    def __len__(self) -> int:
        return len(self._by_owner)

    def at_port(self, port: int) -> Lease | None:
        """The lease of a port."""
        return self._by_port.get(port)

    def of_owner(self, owner: Owner) -> Lease | None:
        """The lease of an owner."""
        return self._by_owner.get(owner)

    @property
    def quarantined(self) -> dict[int, float]:
        """Ports that are nobody's yet, and when they are free."""
        return dict(self._quarantined)

    def counts(self) -> dict[str, int]:
        """How many ports are in which state; their sum is the range."""
        live = sum(lease.state is LeaseState.LIVE for lease in self._by_owner.values())
        return {
            "free": len(self._free),
            "live": live,
            "remembered": len(self._by_owner) - live,
            "quarantined": len(self._quarantined),
            "busy": len(self._busy),
        }

    def restore(self, owner: Owner, port: int, expires_at: float, source: str) -> bool:
        """Put back a remembered lease of an earlier run; False when its port is not to be had."""
        if port not in self._free or owner in self._by_owner:
            return False
        del self._free[port]
        self._add(Lease(owner, port, LeaseState.REMEMBERED, 0, expires_at, source))
        return True

    def quarantine(self, port: int, until: float) -> None:
        """Keep a port from everybody until then; ports in use are left alone."""
        if port in self._free:
            del self._free[port]
            self._quarantined[port] = until

    def acquire(self, owner: Owner, now: float, source: str) -> Grant:
        """Give the owner its port, the one it had if there is one. Raises RefusedError."""
        lease = self._by_owner.get(owner)
        fresh = lease is None
        if lease is None:
            port = self._take_port(now)
            lease = Lease(owner, port, LeaseState.REMEMBERED, 0, inf, source)
            self._add(lease)
        displaced = lease.state is LeaseState.LIVE
        self._generation += 1
        lease.state, lease.generation = LeaseState.LIVE, self._generation
        lease.expires_at, lease.source = inf, source
        return Grant(lease, lease.generation, displaced, fresh)

    def _take_port(self, now: float) -> int:
        while self._busy and next(iter(self._busy.values())) <= now:
            self._free[self._busy.popitem(last=False)[0]] = None
        if self._free:
            return self._free.popitem(last=False)[0]
        if self._quarantined:
            return self._quarantined.popitem(last=False)[0]
        soonest = self._soonest_expiry()
        retry = max(0.0, soonest - now) if soonest is not None else 0.0
        raise RefusedError(pb.REFUSAL_EXHAUSTED, "no port is left", retry)

    def _add(self, lease: Lease) -> None:
        self._by_owner[lease.owner] = self._by_port[lease.port] = lease
        if lease.expires_at != inf:
            heapq.heappush(self._expiries, (lease.expires_at, lease.port))

    def port_busy(self, owner: Owner, now: float) -> None:
        """The lease's port cannot be bound: somebody outside has it. Move to another port.

        Raises RefusedError when there is none; the lease is gone then.
        """
        lease = self._by_owner[owner]
        del self._by_port[lease.port]
        self._busy[lease.port] = now + BUSY_SECONDS
        try:
            lease.port = self._take_port(now)
        except RefusedError:
            del self._by_owner[owner]
            raise
        self._by_port[lease.port] = lease

    def holding_ended(self, owner: Owner, generation: int, now: float) -> bool:
        """The node is gone: remember its lease. A past generation changes nothing."""
        lease = self._by_owner.get(owner)
        if lease is None or lease.generation != generation or lease.state is not LeaseState.LIVE:
            return False
        lease.state = LeaseState.REMEMBERED
        lease.expires_at = now + self._times.ttl
        heapq.heappush(self._expiries, (lease.expires_at, lease.port))
        return True

    def withdraw(self, owner: Owner, generation: int) -> bool:
        """Undo a fresh grant that could not be stored; its port was never announced."""
        lease = self._by_owner.get(owner)
        if lease is None or lease.generation != generation:
            return False
        del self._by_owner[owner], self._by_port[lease.port]
        self._free[lease.port] = None
        return True

    def expire(self, now: float) -> list[Lease]:
        """End what is due; the leases that expired, whose ports are quarantined from now on."""
        for waiting in (self._busy, self._quarantined):
            while waiting and next(iter(waiting.values())) <= now:
                self._free[waiting.popitem(last=False)[0]] = None
        expired = []
        while self._expiries and self._expiries[0][0] <= now:
            at, port = heapq.heappop(self._expiries)
            lease = self._by_port.get(port)
            if lease is None or lease.expires_at != at:
                continue  # it came back, or is not this lease any more
            del self._by_owner[lease.owner], self._by_port[port]
            self._quarantined[port] = now + self._times.quarantine
            expired.append(lease)
        return expired

    def _soonest_expiry(self) -> float | None:
        while self._expiries:
            at, port = self._expiries[0]
            lease = self._by_port.get(port)
            if lease is not None and lease.expires_at == at:
                return at
            heapq.heappop(self._expiries)
        return None
