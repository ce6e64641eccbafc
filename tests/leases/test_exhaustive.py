"""Every state of a small world that a few events lead to, breadth first, on the real table.

Three owners, three ports, time in steps of one second; `Joined` checks the invariants in
each state. States that differ in generations and absolute times alone are one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from proxyservice.leases import unleased
from proxyservice.leases.lease import LeaseQuota, LeaseTimes, Owner
from tests.leases.breadth_first import visit_states
from tests.leases.joined import Joined, claimed, proved

TIMES = LeaseTimes(ttl=2.0, proved_ttl=3.0, hold=1.0, quarantine=2.0)
PORTS = range(3)
OWNERS = (claimed(1), claimed(2), proved(3))
BUSY_SECONDS = 1.0
FULL = bool(os.environ.get("PROXYSERVICE_FULL"))
STATES = 100_000 if FULL else 3_000

Event = Callable[[Joined], None]


def granted(owner: int, fate: str) -> Event:
    def event(joined: Joined) -> None:
        limits = LeaseQuota(per_key=1, per_source=2)
        wanted = another_port(joined) if fate == "wanted" else None
        grant = joined.acquire(OWNERS[owner], wanted=wanted, limits=limits)
        if grant is not None and fate == "busy":
            joined.busy(grant)
        if grant is not None and fate == "not stored":
            joined.undo(grant)

    return event


def another_port(joined: Joined) -> int:
    """The free one that is not next, else one that is somebody's."""
    free = list(joined.table._unleased._free)
    taken = [port for port in PORTS if joined.table.at_port(port) is not None]
    return (free or taken or list(PORTS))[-1]


def ended(owner: int, how: str, stale: int) -> Event:
    def event(joined: Joined) -> None:
        mine = joined.model.of(OWNERS[owner])
        assert mine is not None
        generation = mine.generation - stale
        if how == "released":
            joined.release(OWNERS[owner], generation)
        else:
            joined.node_gone(OWNERS[owner], generation, hold=how == "held")

    return event


def second(joined: Joined) -> None:
    joined.refresh()
    joined.pass_time(1.0)
    joined.refresh()


def crash(joined: Joined) -> None:
    joined.refresh()
    joined.crash()


def events(joined: Joined) -> Iterator[Event]:
    """What can happen in this state."""
    yield second
    yield crash
    for owner in range(len(OWNERS)):
        for fate in ("announced", "busy", "not stored", "wanted"):
            yield granted(owner, fate)
        if joined.table.of_owner(OWNERS[owner]) is None:
            continue
        yield lambda joined, owner=OWNERS[owner]: joined.revoke(owner)  # type: ignore[misc]
        for how in ("remembered", "held", "released"):
            yield ended(owner, how, 0)
        for how in ("remembered", "released"):
            yield ended(owner, how, 1)


def fingerprint(joined: Joined) -> str:
    """All that matters for what may come, with ports and claimed owners named by what they are."""
    model, now = joined.model, joined.model.now
    free, kept = list(joined.table._unleased._free), joined.table._unleased._kept_for
    by_port = {lease.port: lease for lease in model.leases}
    leaving = sorted(lease.left for lease in model.leases)

    def described(port: int) -> tuple[object, ...]:
        lease, (_, until) = by_port.get(port), model.kept.get(port, (None, 0.0))
        moments: tuple[float, ...] = (max(until, now), max(model.busy.get(port, now), now))
        if lease is not None:
            moments += (lease.promised, lease.expires, lease.held_until)
        rank = free.index(port) if port in free else leaving.index(lease.left) if lease else -1
        proved = lease is not None and lease.owner.identity.proved
        return model.status(port), proved, rank, tuple(moment - now for moment in moments)

    ports = sorted(PORTS, key=described)
    names: dict[Owner | None, int] = {None: -1}
    described_ports = []
    for port in ports:
        lease, (kept_for, until) = by_port.get(port), model.kept.get(port, (None, 0.0))
        named = [None if lease is None else lease.owner, kept_for if until > now else None]
        owners = [9 if who == OWNERS[2] else names.setdefault(who, len(names)) for who in named]
        waiting = [] if kept_for is None else list(kept.get(kept_for, ()))
        order = waiting.index(port) if port in waiting else -1
        described_ports.append((described(port), owners, order))
    return repr(described_ports)


@pytest.fixture(autouse=True)
def busy_ports_rest_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unleased, "BUSY_SECONDS", BUSY_SECONDS)


@pytest.mark.heavy
def test_every_state_within_reach_keeps_the_invariants() -> None:
    start = Joined(PORTS, TIMES, busy_seconds=BUSY_SECONDS)
    depth, complete = visit_states(start, events, fingerprint, STATES)
    assert depth >= 5, "far enough for a lease to begin, end, be quarantined and taken again"
    assert complete or not FULL, "there are no states beyond"
