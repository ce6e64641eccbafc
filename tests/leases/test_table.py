"""The table against the naive model, event by event, with hypothesis choosing the events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from proxyservice.leases.lease import Grant, LeaseQuota, Owner
from tests.leases.joined import Joined, stale_or_not
from tests.leases.walk import OTHER_RANGES, OWNERS, PORTS, SOURCES, TIMES, Walk

owners = st.sampled_from(OWNERS)


class Events(RuleBasedStateMachine):
    """Everything that can happen to one server's leases; `Joined` checks after each event."""

    def __init__(self) -> None:
        super().__init__()
        self.joined = Joined(PORTS, TIMES)
        self.unannounced: list[Grant] = []

    @rule(
        owner=owners,
        source=st.sampled_from(SOURCES),
        wanted=st.none() | st.none() | st.sampled_from([*PORTS, PORTS.stop, 21]),
        limits=st.none()
        | st.builds(LeaseQuota, st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
        fate=st.sampled_from(["announced", "waiting", "busy", "not stored", "busy, not stored"]),
    )
    def acquire(
        self,
        owner: Owner,
        source: str,
        wanted: int | None,
        limits: LeaseQuota | None,
        fate: str,
    ) -> None:
        grant = self.joined.acquire(owner, source, wanted, limits)
        if grant is None:
            return
        if fate == "waiting":
            self.unannounced.append(grant)
        if "busy" in fate:
            self.joined.busy(grant)
        if "not stored" in fate:
            self.joined.undo(grant)

    def leased(self, data: st.DataObject) -> Owner:
        """Mostly somebody who has a lease: of others nothing can end."""
        have = [lease.owner for lease in self.joined.model.leases]
        return data.draw(st.sampled_from(have) | owners if have else owners)

    @rule(data=st.data(), stale=st.sampled_from([False, False, True]), hold=st.booleans())
    def node_gone(self, data: st.DataObject, stale: bool, hold: bool) -> None:
        owner = self.leased(data)
        self.joined.node_gone(owner, stale_or_not(self.joined, owner, stale), hold)

    @rule(seconds=st.sampled_from([5.0, 40.0, 90.0, 200.0]))
    def all_nodes_gone(self, seconds: float) -> None:
        for lease in list(self.joined.model.leases):
            self.joined.node_gone(lease.owner, lease.generation, hold=True)
        self.joined.pass_time(seconds)

    @rule(data=st.data(), stale=st.booleans())
    def release(self, data: st.DataObject, stale: bool) -> None:
        owner = self.leased(data)
        self.joined.release(owner, stale_or_not(self.joined, owner, stale))

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        self.joined.revoke(self.leased(data))

    @rule()
    def port_turns_out_busy(self) -> None:
        if self.unannounced:
            self.joined.busy(self.unannounced[-1])

    @rule(port=st.sampled_from([*PORTS, 1]))
    def wanted_port_turns_out_busy(self, port: int) -> None:
        self.joined.wanted_is_busy(port)

    @rule()
    def could_not_be_stored(self) -> None:
        while self.unannounced:
            self.joined.undo(self.unannounced.pop(0))

    @rule()
    def announce(self) -> None:
        self.unannounced.clear()

    @rule(seconds=st.sampled_from([0.5, 4.5, 5.0, 20.0, 40.0, 60.0, 90.0, 210.0]))
    def pass_time(self, seconds: float) -> None:
        self.joined.pass_time(seconds)

    @rule()
    def heartbeat(self) -> None:
        self.joined.refresh()

    @rule(
        clock_at_start=st.sampled_from([0.0, 5.0, 1e6]),
        ports=st.none() | st.sampled_from([PORTS, *OTHER_RANGES]),
    )
    def crash(self, clock_at_start: float, ports: range | None) -> None:
        self.unannounced.clear()
        self.joined.crash(clock_at_start, ports)


TestEvents = Events.TestCase
TestEvents.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(n, marks=pytest.mark.heavy) for n in range(2, 20))]
)
def test_a_long_walk(seed: int) -> None:
    Walk(seed).run(2000)
