"""The ports of the range that are nobody's: free, quarantined or busy.

Knows no leases, only for whom a port is kept in quarantine. Beside those of the range it keeps
quarantines that a wider range began, and knows them again when that range comes back.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf

from proxyservice.leases.due import DueTimes
from proxyservice.leases.lease import ANY_PORT, Owner, PortChoice
from proxyservice.leases.port_set import PortSet

BUSY_SECONDS = 60.0
"""A port that could not be bound is tried again after this."""


class UnleasedPorts:
    """Every port starts free. Free ports are taken least recently used first, in O(1)."""

    def __init__(self, ports: range) -> None:
        self._ports = ports
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(ports)
        self._free_set = PortSet.of_ranges([ports])
        self._free_reserved: set[int] = set()
        self._quarantined: DueTimes[int] = DueTimes()
        self._outside: DueTimes[int] = DueTimes()  # quarantines of ports that are in no range now
        self._busy: DueTimes[int] = DueTimes()
        # Whose a port was and until when nobody else gets it. Outlives `take`, for `give_back`.
        self._former: dict[int, tuple[Owner | None, float]] = {}
        self._kept_for: dict[Owner, dict[int, None]] = {}  # those in quarantine, latest last
        self._reserved: frozenset[int] = frozenset()

    def counts(self) -> dict[str, int]:
        """How many ports of the range are in which state."""
        return {
            "free": len(self._free) + len(self._free_reserved),
            "quarantined": len(self._quarantined),
            "busy": len(self._busy),
        }

    def kept(self, port: int) -> tuple[Owner | None, float] | None:
        """For whom a port is kept, and until when; busy ones too, for their time after."""
        waits = port in self._quarantined or port in self._busy or port in self._outside
        return self._former.get(port) if waits else None

    def is_free(self, port: int) -> bool:
        """Nobody has it and nothing keeps it."""
        return port in self._free or port in self._free_reserved

    def is_for(self, port: int, owner: Owner) -> bool:
        """The owner may have it: it is free, or in quarantine after a lease of this owner."""
        if self.is_free(port):
            return True
        return port in self._quarantined and self._former[port][0] == owner

    def next_for(self, owner: Owner, choice: PortChoice = ANY_PORT) -> int | None:
        """The one to take when none is named; None when there is none.

        The owner's own port comes first, then its last one, then a free one, then what is longest
        in quarantine. Among some ports only, the free one is the lowest, and what is in
        quarantine for others stays there. Takes as long for all ports as for one.
        """
        if choice.own is not None and self.is_for(choice.own, owner):
            return choice.own
        kept = self._kept_for.get(owner, {})
        mine = next((port for port in reversed(kept) if choice.allows(port)), None)
        if mine is not None:
            return mine
        if choice.among is not None:
            return (self._free_set & choice.among).lowest()
        if self._free:
            return next(iter(self._free))
        first = self._quarantined.soonest()
        return None if first is None else first[1]

    @property
    def any_left(self) -> bool:
        """Whoever comes would find one, though perhaps one in quarantine."""
        return len(self._quarantined) > 0 or bool(self._free)

    def reserve(self, ports: frozenset[int]) -> list[int]:
        """From now on these are taken by their number alone; those whose state changed.

        A reserved port knows no quarantine: it has one owner, whom others know better.
        """
        self._reserved = ports
        again = [*self._free, *self._free_reserved]
        freed = [port for port in ports if self._leave_quarantine(port)]
        for port in freed:
            self._former.pop(port, None)
        self._free.clear()
        self._free_reserved.clear()
        for port in [*again, *freed]:
            if port in ports:
                self._free_reserved.add(port)
            else:
                self._free[port] = None
        self._free_set = PortSet.of(self._free)
        return freed

    def is_reserved(self, port: int) -> bool:
        """Nobody gets it but by its number."""
        return port in self._reserved

    def _set_free(self, port: int) -> None:
        if port in self._reserved:
            self._free_reserved.add(port)
        else:
            self._free[port] = None
            self._free_set = self._free_set.with_port(port)

    def _unset_free(self, port: int) -> bool:
        if port in self._free_reserved:
            self._free_reserved.remove(port)
            return True
        if port not in self._free:
            return False
        del self._free[port]
        self._free_set = self._free_set.without(port)
        return True

    def take(self, port: int) -> None:
        """It gets a lease. Takes a free or quarantined port."""
        if not self._leave_quarantine(port) and not self._unset_free(port):
            raise KeyError(port)

    def give_back(self, port: int, now: float) -> None:
        """Undo `take`: what it was in quarantine for still counts."""
        former = self._former.get(port)
        if former is not None and former[1] > now and port not in self._reserved:
            self._enter_quarantine(port, *former)
        else:
            self._former.pop(port, None)
            self._set_free(port)

    def quarantine(self, port: int, owner: Owner | None, until: float) -> None:
        """Keep a taken port, or one outside the range, from everybody but `owner`."""
        if port in self._reserved:
            self._former.pop(port, None)
            self._set_free(port)
            return
        self._former[port] = (owner, until)
        if port in self._ports:
            self._enter_quarantine(port, owner, until)
        else:
            self._outside.set(port, until)

    def leave_outside(self, port: int) -> None:
        """End the quarantine of a port outside the range: its lease is parked there again."""
        if self._outside.discard(port):
            del self._former[port]

    def busy(self, port: int, now: float) -> None:
        """Somebody outside has it, whatever it was here."""
        self._unset_free(port)
        self._leave_quarantine(port)
        self._busy.set(port, now + BUSY_SECONDS)

    def busy_of(self, port: int, owner: Owner, now: float, until: float) -> None:
        """The same for a taken port that was this owner's: afterwards it is in quarantine."""
        self._former[port] = (owner, until)
        self.busy(port, now)

    def pass_time(self, now: float) -> list[int]:
        """Busy ports are tried again, quarantines end; the ports whose state changed."""
        rested = list(self._busy.take_due(now))
        for port in rested:
            self.give_back(port, now)
        over = []
        while (first := self._quarantined.soonest()) is not None and first[0] <= now:
            self._leave_quarantine(first[1])
            self.give_back(first[1], now)
            over.append(first[1])
        for port in self._outside.take_due(now):
            del self._former[port]
            over.append(port)
        return rested + over

    def soonest(self) -> float:
        """When a port comes back by itself."""
        firsts = (self._quarantined.soonest(), self._busy.soonest())
        return min((first[0] for first in firsts if first is not None), default=inf)

    def _enter_quarantine(self, port: int, owner: Owner | None, until: float) -> None:
        self._quarantined.set(port, until)
        if owner is not None:
            self._kept_for.setdefault(owner, {})[port] = None

    def _leave_quarantine(self, port: int) -> bool:
        if not self._quarantined.discard(port):
            return False
        owner = self._former[port][0]
        if owner is not None:
            kept = self._kept_for[owner]
            del kept[port]
            if not kept:
                del self._kept_for[owner]
        return True
