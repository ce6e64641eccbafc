"""All leases of a table, findable by owner, port, state and moment.

Keeps its indices in step with each other; what may become of a lease is the
table's to decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import inf

from proxyservice.leases.due import DueTimes
from proxyservice.leases.lease import Lease, LeaseState, Owner
from proxyservice.leases.quota import LeaseCounts


class LeaseIndex:
    """O(log n) for each change, O(1) for each question."""

    def __init__(self) -> None:
        self._by_owner: dict[Owner, Lease] = {}
        self._by_port: dict[int, Lease] = {}
        self._states = dict.fromkeys(LeaseState, 0)
        self._holds: DueTimes[int] = DueTimes()  # held: when the port is unbound
        # Remembered, proved: from when on its port can be needed.
        self._courtesies: DueTimes[int] = DueTimes()
        self._expiries: DueTimes[int] = DueTimes()  # held, remembered and parked
        self._of_no_use: frozenset[int] = frozenset()  # ports that nobody gets by pressure
        self.counts = LeaseCounts()
        self.changed: dict[int, None] = {}
        """Ports of leases that came, went or changed; whoever reads it empties it."""

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

    def states(self) -> dict[str, int]:
        """How many leases on ports of the range are in which state."""
        return {
            state.value: count
            for state, count in self._states.items()
            if state is not LeaseState.PARKED
        }

    @property
    def parked(self) -> int:
        """How many leases wait for a range that has their port."""
        return self._states[LeaseState.PARKED]

    def add(self, lease: Lease) -> None:
        """Owner and port must not have a lease."""
        self._by_owner[lease.owner] = self._by_port[lease.port] = lease
        self._states[lease.state] += 1
        self.counts.add(lease)
        self._note_moments(lease, inf)
        self.changed[lease.port] = None

    def remove(self, lease: Lease) -> None:
        """The lease must be in here."""
        del self._by_owner[lease.owner], self._by_port[lease.port]
        self._states[lease.state] -= 1
        self.counts.remove(lease)
        self._forget_moments(lease.port)
        self.changed[lease.port] = None

    def set_state(self, lease: Lease, state: LeaseState, held_until: float = inf) -> None:
        """Also to be called when `promised_until` or `expires_at` were changed."""
        self._states[lease.state] -= 1
        self._states[state] += 1
        lease.state = state
        self.counts.changed(lease)
        self._forget_moments(lease.port)
        self._note_moments(lease, held_until)
        self.changed[lease.port] = None

    def expiry_changed(self, lease: Lease) -> None:
        """Of a lease that is not live: `promised_until` and `expires_at` were changed."""
        self._expiries.set(lease.port, lease.expires_at)
        self._note_courtesy(lease)
        self.counts.changed(lease)
        self.changed[lease.port] = None

    def set_reserved(self, ports: frozenset[int]) -> None:
        """These are given by their number alone: to end a lease for one gives nobody a port."""
        changed, self._of_no_use = self._of_no_use ^ ports, ports
        for port in changed:
            lease = self._by_port.get(port)
            if lease is not None:
                self._note_courtesy(lease)

    def set_port(self, lease: Lease, port: int) -> None:
        """Of a live lease, to a port without a lease."""
        del self._by_port[lease.port]
        self.changed.update({lease.port: None, port: None})
        lease.port = port
        self._by_port[port] = lease

    def charge(self, lease: Lease, source: str) -> None:
        """The lease counts for this source from now on."""
        self.counts.remove(lease)
        lease.charged_to = source
        self.counts.add(lease)

    def _note_moments(self, lease: Lease, held_until: float) -> None:
        if lease.state is LeaseState.LIVE:
            return
        self._expiries.set(lease.port, lease.expires_at)
        if lease.state is LeaseState.HELD:
            self._holds.set(lease.port, held_until)
        self._note_courtesy(lease)

    def _note_courtesy(self, lease: Lease) -> None:
        self._courtesies.discard(lease.port)
        if (
            lease.state is LeaseState.REMEMBERED
            and lease.promised_until < lease.expires_at
            and lease.port not in self._of_no_use
        ):
            self._courtesies.set(lease.port, lease.promised_until)

    def _forget_moments(self, port: int) -> None:
        for moments in (self._holds, self._courtesies, self._expiries):
            moments.discard(port)

    def take_unheld(self, now: float, most: int) -> list[Lease]:
        """Held leases whose hold is over; the caller sets their state."""
        return [self._by_port[port] for port in islice(self._holds.take_due(now), most)]

    def take_expired(self, now: float, most: int) -> list[Lease]:
        """Leases whose time is over; the caller removes them."""
        return [self._by_port[port] for port in islice(self._expiries.take_due(now), most)]

    def beyond_promise(self, now: float) -> Lease | None:
        """Of the leases that are kept as a courtesy the one least recently heard."""
        first = self._courtesies.soonest()
        return self._by_port[first[1]] if first is not None and first[0] <= now else None

    def soonest_loss(self) -> float:
        """When the next remembered lease has to give its port up if that is needed."""
        firsts = (self._courtesies.soonest(), self._expiries.soonest())
        return min((first[0] for first in firsts if first is not None), default=inf)
