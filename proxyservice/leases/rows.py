"""What of a lease is stored, and how a stored lease comes back: pure.

Two kinds of time. `expires`, `promised` and the heartbeat run on a wall clock
that never jumps (wall at start plus monotonic since), because only their
differences matter: at load a lease has left what it had at the last heartbeat,
so neither downtime nor a clock set anew shortens it. `since`, `heard` and
`until` are for people: the wall clock as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from proxyservice.leases.lease import NOTHING_SHOWN, EndedLease, Lease, LeaseState, Owner, Shown
from proxyservice.leases.quota import counted_source, token_pool
from proxyservice.leases.table import LeaseTable

QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Row:
    """One port: a lease of `owner`, or in quarantine after one; all times are wall times."""

    port: int
    state: str  # a `LeaseState` or `QUARANTINED`
    owner: Owner | None  # None: kept for nobody, in quarantine
    expires: float
    promised: float = 0.0
    since: float = 0.0
    heard: float = 0.0
    source: str = ""
    label: str = ""
    homes: tuple[int, ...] = ()
    shown: Shown = NOTHING_SHOWN


@dataclass(frozen=True, slots=True)
class PastLease:
    """Who had a port, from when to when; `until` is None while it still has it."""

    port: int
    owner: Owner
    since: float
    until: float | None
    heard: float
    source: str
    label: str
    outcome: str  # `expired`, `released`, `revoked`, `moved`; of a lease that lasts, its state


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit writes."""

    rows: Sequence[Row] = ()
    gone: Sequence[int] = ()  # ports whose row goes
    past: Sequence[PastLease] = ()
    heartbeat: float | None = None
    forget_before: float = -inf  # with a heartbeat: history that ended earlier goes


@dataclass(frozen=True, slots=True)
class WallClock:
    """From the table's clock to the two kinds of stored time, at one moment."""

    steady: float  # to be added for what never jumps
    shown: float  # to be added for what people read


def row_of(table: LeaseTable, port: int, now: float, ahead: float, wall: WallClock) -> Row | None:
    """What is to be stored of a port; None: nothing.

    A live lease, which does not expire, is stored as if its node went away in `ahead`
    seconds, so that a crash before the next refresh shortens nothing.
    """
    lease = table.at_port(port)
    if lease is None:
        kept = table.kept(port)
        return kept and Row(port, QUARANTINED, kept[0], kept[1] + wall.steady)
    promised, expires, heard = lease.promised_until, lease.expires_at, lease.heard_at
    if lease.state is LeaseState.LIVE:
        heard, (promised, expires) = now, table.ends(lease, now + ahead)
    return Row(
        port,
        lease.state.value,
        lease.owner,
        expires + wall.steady,
        promised + wall.steady,
        lease.since + wall.shown,
        heard + wall.shown,
        lease.source,
        lease.label,
        lease.homes,
        lease.shown,
    )


def restore(table: LeaseTable, row: Row, heartbeat: float, now: float, wall: WallClock) -> bool:
    """Put a stored port back; False when its time is over, or another row has it.

    A port outside the range is parked. A lease that ended unnoticed, just before its service
    did, leaves its port in quarantine.
    """
    left = row.expires - heartbeat
    if row.state == QUARANTINED or row.owner is None:
        return left > 0 and table.restore_quarantine(row.port, row.owner, now + left)
    if left > 0 and table.restore(_lease(row, row.owner, heartbeat, now, wall), now):
        return True
    kept = min(left, 0.0) + table.times.quarantine
    if kept > 0:
        table.restore_quarantine(row.port, row.owner, now + kept)
    return False


def _lease(row: Row, owner: Owner, heartbeat: float, now: float, wall: WallClock) -> Lease:
    left = row.expires - heartbeat
    return Lease(
        owner,
        row.port,
        LeaseState.REMEMBERED,
        generation=0,
        promised_until=min(now + row.promised - heartbeat, now + left),
        expires_at=now + left,
        source=row.source,
        charged_to=pool_of(row.source, row.shown),
        since=row.since - wall.shown,
        heard_at=row.heard - wall.shown,
        label=row.label,
        homes=row.homes,
        shown=row.shown,
    )


def pool_of(source: str, shown: Shown) -> str:
    """What a stored lease counts for, until the operator's files are asked."""
    return token_pool(shown.token) if shown.token else counted_source(source)


def past_lease(ended: EndedLease, wall: WallClock) -> PastLease:
    """What the history keeps."""
    lease = ended.lease
    heard = ended.at if lease.state is LeaseState.LIVE else lease.heard_at
    return PastLease(
        lease.port,
        lease.owner,
        lease.since + wall.shown,
        ended.at + wall.shown,
        heard + wall.shown,
        lease.source,
        lease.label,
        ended.outcome,
    )


def past_row(row: Row) -> PastLease | None:
    """The same for a lease of an earlier run that is not restored; None of a quarantine."""
    if row.owner is None or row.state == QUARANTINED:
        return None
    return PastLease(
        row.port, row.owner, row.since, row.heard, row.heard, row.source, row.label, "expired"
    )
