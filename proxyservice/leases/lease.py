"""What a lease is, and whose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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


class LeaseState(Enum):
    """A port that is nobody's is free, busy or quarantined; that is the table's to know."""

    LIVE = "live"  # its node is connected
    REMEMBERED = "remembered"  # its port is unbound and reserved


@dataclass(slots=True)
class Lease:
    """The right to one port. `expires_at` counts while remembered (seconds, the table's clock)."""

    owner: Owner
    port: int
    state: LeaseState
    generation: int
    expires_at: float
    source: str  # the node's address when it last asked


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Promises, in seconds."""

    ttl: float = 180 * 60.0  # remembered so long after the node was last heard
    quarantine: float = 10 * 60.0  # an expired port is nobody else's for so long


@dataclass(frozen=True, slots=True)
class Grant:
    """What `LeaseTable.acquire` decided."""

    lease: Lease
    generation: int
    displaced: bool  # somebody held it until now
    fresh: bool  # the lease did not exist before
