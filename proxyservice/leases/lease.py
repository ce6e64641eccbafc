"""What a lease is, and whose."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from proxyservice.leases.port_set import PortSet


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is: a proved key, or a claimed pair; the two never mix."""

    proved: bool
    net_key: bytes
    connection_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a lease belongs to: an identity and the origin address it stands for."""

    identity: Identity
    origin: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a node showed beside its key; the operator's files judge its lease by that later."""

    token: str = ""  # the name of whom its token was given to
    certificates: tuple[str, ...] = ()  # the names in its client certificate


NOTHING_SHOWN = Shown()


class LeaseState(Enum):
    """A port without a lease is free, busy or quarantined; `UnleasedPorts` knows."""

    LIVE = "live"  # its node is connected
    HELD = "held"  # its node is gone a moment ago; the port stays bound, visitors wait
    REMEMBERED = "remembered"  # its port is unbound and reserved
    PARKED = "parked"  # its port is outside the range; its owner gets another on this lease


BOUND_STATES = frozenset({LeaseState.LIVE, LeaseState.HELD})
"""A socket listens if and only if the lease is in one of these."""


@dataclass(slots=True)
class Lease:
    """The right to one port. Times are seconds of the table's clock.

    `promised_until` and `expires_at` are infinite while the lease is live, and of a lease on a
    port that is its owner's own (`LeaseTable.reserve`). Between the two a
    proved lease is kept as a courtesy: its port goes to others when nothing else is left.
    """

    owner: Owner
    port: int
    state: LeaseState
    generation: int  # of the newest holding; 0 after a restart, until the node is back
    promised_until: float
    expires_at: float
    source: str  # the node's IP address when it last asked
    charged_to: str  # what it counts for: a source (`quota.counted_source`), a token's name
    since: float  # when this owner got this port
    heard_at: float  # end of the last holding; of a live lease the beginning of this one
    label: str = ""  # the node's own word for it
    homes: tuple[int, ...] = ()  # ports it had before they were outside the range; oldest first
    shown: Shown = NOTHING_SHOWN


MOST_HOMES = 4
"""Ports that a lease goes back to; with more changes of the range the first counts, and the last
ones."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Promises, in seconds."""

    ttl: float = 180 * 60.0  # remembered so long after the node was last heard
    proved_ttl: float = 30 * 86400.0  # a proved lease is kept so long, while ports are left
    hold: float = 0.0  # with streams the port stays bound so long after the node is gone; 0: not
    quarantine: float = 10 * 60.0  # a port that was leased is nobody else's for so long
    hold_messages: float = 0.0  # what `hold` is for streams, for a lease that carries messages

    def ends(self, identity: Identity, heard_at: float) -> tuple[float, float]:
        """`promised_until` and `expires_at` of a lease whose node was last heard at this moment."""
        kept = max(self.ttl, self.proved_ttl) if identity.proved else self.ttl
        return heard_at + self.ttl, heard_at + kept


@dataclass(frozen=True, slots=True)
class LeaseQuota:
    """How many leases (live, held, remembered and parked) there may be at most."""

    per_key: int = 8  # of one identity
    per_source: int = 64  # of one IPv4 address or IPv6 /56, of proved keys: a team behind one NAT
    claimed_per_source: int = 8  # of claimed identities, and never more than `per_source`
    # What an operator changes to allow more, where that is not the limit itself.
    key_lifted_by: str = "--limit leases-per-key=N, a token, or an entry in --policy"
    source_lifted_by: str = ""

    def of_source(self, *, proved: bool) -> int:
        """How many one source may have of this kind."""
        return self.per_source if proved else min(self.claimed_per_source, self.per_source)


@dataclass(frozen=True, slots=True)
class PortChoice:
    """Which ports an owner may have, where not any will do."""

    own: int | None = None  # this owner's, always, and nobody else's: the one it gets if it can
    among: PortSet | None = None  # its leases are on these; None: on any

    def allows(self, port: int) -> bool:
        """Whether a lease may have it."""
        return port == self.own or self.among is None or port in self.among


ANY_PORT = PortChoice()


@dataclass(frozen=True, slots=True)
class Grant:
    """What `LeaseTable.acquire` decided."""

    lease: Lease
    generation: int
    displaced: bool  # somebody held it until now
    fresh: bool  # the lease did not exist before
    moved_from: int | None = None  # the port that the owner gave up for this one, or is parked
    released: tuple[Lease, ...] = ()  # remembered leases that ended for the quota's sake
    choice: PortChoice = ANY_PORT  # when the port cannot be bound another of these will do


@dataclass(frozen=True, slots=True)
class EndedLease:
    """A lease that ended, or left its port, with the reason in one word."""

    lease: Lease  # as it was
    at: float
    outcome: str  # `expired`, `released`, `revoked` or `moved`


@dataclass(slots=True)
class Changes:
    """What happened in a table: `ports` whose row or socket may have to change."""

    ports: dict[int, None] = field(default_factory=dict)
    ended: list[EndedLease] = field(default_factory=list)
