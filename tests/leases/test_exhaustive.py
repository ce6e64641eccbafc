"""Every state of a small world that a few events lead to, breadth first, on the real table.

Three owners, three ports, time in steps of one second; `Joined` checks the invariants in
each state. States that differ in generations and absolute times alone are one. A second world
has two owners and starts whose range is another one.
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
RANGES = (range(2), range(1, 3))
STATES_OF_RANGES = 30_000 if FULL else 1_500

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


def elsewhere(joined: Joined) -> None:
    """A start with the other range."""
    joined.refresh()
    joined.crash(ports=RANGES[joined.ports == RANGES[0]])


def events_of_ranges(joined: Joined) -> Iterator[Event]:
    """The same for two owners, and starts with the other range."""
    yield elsewhere
    yield second
    yield crash
    for owner in (0, 2):
        for fate in ("announced", "busy", "not stored"):
            yield granted(owner, fate)
        if joined.table.of_owner(OWNERS[owner]) is not None:
            yield lambda joined, owner=OWNERS[owner]: joined.revoke(owner)  # type: ignore[misc]
            yield ended(owner, "remembered", 0)
            yield ended(owner, "released", 0)


def seen_with_ranges(joined: Joined) -> str:
    """All that matters for what may come; ports and owners are few, and stay who they are."""
    model, now = joined.model, joined.model.now
    leases = [
        (
            OWNERS.index(one.owner),
            (one.port, one.state, one.homes, one.left),
            tuple(at - now for at in (one.promised, one.expires, one.held_until)),
        )
        for one in model.leases
    ]
    order = sorted(one[1][3] for one in leases)
    named = sorted((who, (*at[:3], order.index(at[3])), left) for who, at, left in leases)
    kept = sorted(
        (port, -1 if owner is None else OWNERS.index(owner), until - now)
        for port, (owner, until) in model.kept.items()
        if until > now
    )
    busy = sorted((port, until - now) for port, until in model.busy.items() if until > now)
    unleased = joined.table._unleased
    return repr((joined.ports, named, kept, busy, list(unleased._free), unleased._kept_for))


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


@pytest.mark.heavy
def test_every_state_with_two_ranges_keeps_them_too() -> None:
    start = Joined(RANGES[0], TIMES, busy_seconds=BUSY_SECONDS)
    depth, _ = visit_states(start, events_of_ranges, seen_with_ranges, STATES_OF_RANGES)
    assert depth >= 5, "far enough for a lease to be parked, moved, parked again and come home"
