"""Leases as one would explain them to a child: lists, loops, and no index anywhere.

Written from docs/leases.md, not from the code. It says which answers are allowed; where
several are (which of the free ports), it takes over the one that the table gave.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from proxyservice.leases.lease import LeaseQuota, LeaseTimes, Owner
from proxyservice.wire import proxyservice_pb2 as pb

LIVE, HELD, REMEMBERED, PARKED = "live", "held", "remembered", "parked"


@dataclass
class Held:
    """One lease."""

    owner: Owner
    port: int
    generation: int
    charged: str
    state: str = LIVE
    promised: float = inf
    expires: float = inf
    held_until: float = inf
    left: int = 0  # how many had left before this node did
    homes: tuple[int, ...] = ()  # where it was before that was outside the range


@dataclass
class Model:
    ports: range
    times: LeaseTimes
    busy_seconds: float
    now: float = 0.0
    leases: list[Held] = field(default_factory=list)
    kept: dict[int, tuple[Owner | None, float]] = field(default_factory=dict)
    busy: dict[int, float] = field(default_factory=dict)
    departures: int = 0
    newest: int = 0

    # ------------------------------------------------------------------ ports

    def of(self, owner: Owner) -> Held | None:
        return next((lease for lease in self.leases if lease.owner == owner), None)

    def status(self, port: int) -> str:
        for lease in self.leases:
            if lease.port == port:
                return lease.state
        if self.busy.get(port, -inf) > self.now:
            return "busy"
        return "quarantined" if self.kept.get(port, (None, -inf))[1] > self.now else "free"

    def with_status(self, status: str) -> set[int]:
        return {port for port in self.ports if self.status(port) == status}

    def kept_for(self, owner: Owner) -> set[int]:
        return {port for port in self.with_status("quarantined") if self.kept[port][0] == owner}

    def may_have(self, owner: Owner, port: int | None) -> bool:
        return port in self.with_status("free") or port in self.kept_for(owner)

    # --------------------------------------------------------------- granting

    def refusal(
        self, owner: Owner, charged: str, wanted: int | None, limits: LeaseQuota | None
    ) -> int | None:
        """The code that acquire has to be refused with, or None."""
        mine = self.of(owner)
        has_it = wanted is None or (
            mine is not None and mine.port == wanted and mine.state != PARKED
        )
        if not has_it and (wanted not in self.ports or not self.may_have(owner, wanted)):
            return pb.REFUSAL_ADDRESS_UNAVAILABLE
        if mine is not None:
            nowhere = mine.state == PARKED and wanted is None and not self.any_port(owner)
            return pb.REFUSAL_EXHAUSTED if nowhere else None
        going = self.going(owner, charged, limits)
        if going is None:
            return pb.REFUSAL_QUOTA
        if wanted is None and not going and not self.any_port(owner):
            return pb.REFUSAL_EXHAUSTED
        return None

    def going(self, owner: Owner, charged: str, limits: LeaseQuota | None) -> list[Held] | None:
        """What has to be released for the quota's sake; None when that is impossible."""
        if limits is None:
            return []
        going: list[Held] = []
        of_key = [one for one in self.leases if one.owner.identity == owner.identity]
        proved, of_source = owner.identity.proved, self.counted(charged, owner)
        most = limits.per_source
        if not proved:
            most = min(most, limits.claimed_per_source)
        for same, most_of, by_key in (
            (of_key, limits.per_key, False),
            (of_source, most, not proved),
        ):
            if len([one for one in same if one not in going]) < most_of:
                continue
            mine = [one for one in same if one.owner.identity.net_key == owner.identity.net_key]
            oldest = self.oldest(mine) if by_key else []
            oldest = oldest or [one for one in self.oldest(same) if one.promised <= self.now]
            if not oldest:
                return None
            if oldest[0] not in going:
                going.append(oldest[0])
        return going

    def counted(self, charged: str, owner: Owner) -> list[Held]:
        """What a source has of this owner's kind, proved or claimed."""
        return [
            one
            for one in self.leases
            if one.charged == charged and one.owner.identity.proved == owner.identity.proved
        ]

    def oldest(self, leases: list[Held]) -> list[Held]:
        """Those whose node is away, the one least recently heard first."""
        away = [one for one in leases if one.state == REMEMBERED]
        return sorted(away, key=lambda one: (one.promised, one.left))

    def any_port(self, owner: Owner) -> set[int]:
        """The ports that an owner without a wish may be given."""
        mine = self.kept_for(owner) or self.with_status("free")
        if mine:
            return mine
        waiting = self.with_status("quarantined")
        first = min((self.kept[port][1] for port in waiting), default=inf)
        if waiting:
            return {port for port in waiting if self.kept[port][1] == first}
        beyond = [o for o in self.leases if o.state == REMEMBERED and o.promised <= self.now]
        first = min((one.promised for one in beyond), default=inf)
        return {one.port for one in beyond if one.promised == first}

    def acquired(
        self,
        owner: Owner,
        charged: str,
        wanted: int | None,
        limits: LeaseQuota | None,
        port: int,
        generation: int,
    ) -> list[Owner]:
        """The table gave this port; whose leases had to go for the quota."""
        mine = self.of(owner)
        released: list[Held] = []
        if mine is None:
            released = self.going(owner, charged, limits) or []
            for one in released:
                self.end(one, one.owner)
            allowed = {wanted} if wanted is not None else self.any_port(owner)
            self.end_courtesy(port)
            mine = Held(owner, port, generation, charged)
            self.leases.append(mine)
        else:
            allowed = {mine.port if wanted is None else wanted}
            if mine.state == PARKED:
                allowed = self.any_port(owner) if wanted is None else {wanted}
                self.end_courtesy(port)
                mine.homes = (*(one for one in mine.homes if one != mine.port), mine.port)
                if len(mine.homes) > 4:  # the first one counts, and the latest
                    mine.homes = (mine.homes[0], *mine.homes[-3:])
            if mine.port != port:
                self.kept[mine.port] = (owner, self.now + self.times.quarantine)
            most = 0 if limits is None else limits.per_source
            if limits is not None and not owner.identity.proved:
                most = min(most, limits.claimed_per_source)
            if limits is None or len(self.counted(charged, owner)) < most:
                mine.charged = charged
        assert port in allowed, f"{port} given, {allowed} allowed"
        assert generation > self.newest, "generations only rise"
        self.newest = generation
        mine.port, mine.generation, mine.state = port, generation, LIVE
        mine.promised = mine.expires = mine.held_until = inf
        return [one.owner for one in released]

    def end_courtesy(self, port: int) -> None:
        for lease in list(self.leases):
            if lease.port == port:
                assert lease.owner.identity.proved
                assert lease.promised <= self.now, "never within its promise"
                assert lease.state == REMEMBERED
                self.end(lease, lease.owner)

    # ----------------------------------------------------------------- ending

    def end(self, lease: Held, kept_for: Owner | None) -> None:
        self.leases.remove(lease)
        self.kept[lease.port] = (kept_for, self.now + self.times.quarantine)

    def node_gone(self, lease: Held, hold: bool) -> None:
        kept = self.times.ttl
        if lease.owner.identity.proved:
            kept = max(kept, self.times.proved_ttl)
        lease.promised, lease.expires = self.now + self.times.ttl, self.now + kept
        lease.state = REMEMBERED
        if hold and self.times.hold > 0:
            lease.state, lease.held_until = HELD, self.now + self.times.hold
        self.remember(lease)

    def remember(self, lease: Held) -> None:
        self.departures += 1
        lease.left = self.departures

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for lease in list(self.leases):
            if lease.expires <= self.now:
                self.end(lease, lease.owner)
        unheld = [one for one in self.leases if one.state == HELD and one.held_until <= self.now]
        for lease in sorted(unheld, key=lambda one: (one.held_until, one.left)):
            lease.state = REMEMBERED
            self.remember(lease)
