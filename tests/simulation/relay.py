"""One run of the real service, wired as tap.py does, on a simulated machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred

from proxyservice.leases.lease import LeaseQuota, LeaseTimes
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.net.deadlines import Deadlines
from proxyservice.server.descriptors import MOST, Descriptors
from proxyservice.server.factory import MainFactory
from proxyservice.server.main import MainConnection
from proxyservice.server.ports import ProxyPorts
from proxyservice.server.service import ProxyService
from proxyservice.server.settings import ServiceSettings
from proxyservice.server.waiting_room import WaitedPorts, WaitingRoom
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.simulation.disk import Disk, Store
from tests.simulation.network import HOST
from tests.simulation.reactor import Reactor

MAIN_PORT = 6008
TIMES = LeaseTimes(ttl=300.0, proved_ttl=1200.0, hold=10.0, quarantine=240.0, hold_messages=25.0)
KEEPALIVE_SECONDS = 60.0
DRAIN_SECONDS = 30.0
RELAY_ID = bytes(32)


class Unlimited(Descriptors):
    """Whatever the system of the tests allows."""

    def raise_limit(self) -> int:
        self._limit = MOST
        return MOST


class Lock:
    """One service per state directory."""

    def __init__(self) -> None:
        self.taken = False

    def take(self) -> None:
        assert not self.taken, "two services at a time"
        self.taken = True

    def release(self) -> None:
        self.taken = False


class Relay:
    """From its start to its stop, or its crash."""

    def __init__(
        self,
        reactor: Reactor,
        disk: Disk,
        lock: Lock,
        port_range: range,
        wall: Callable[[], float],
        registry_class: type[LeaseRegistry] = LeaseRegistry,
    ) -> None:
        self.reactor = reactor
        self.stopped: Deferred[None] | None = None
        deadlines = Deadlines()
        self.ports = ProxyPorts(reactor, HOST, lambda *visit: self.service.visitor_arrived(*visit))
        settings = ServiceSettings(
            network_id=DEFAULT_NETWORK_ID,
            relay_id=RELAY_ID,
            public_host=HOST,
            keepalive_seconds=KEEPALIVE_SECONDS,
            quota=LeaseQuota(),
            times=TIMES,
        )
        room = WaitingRoom(settings.limits.waiting_visitors, settings.limits.waiting_per_lease)
        self.registry = registry_class(
            reactor,
            Store(disk, DEFAULT_NETWORK_ID),
            port_range,
            TIMES,
            WaitedPorts(self.ports, room),
            wall=wall,
        )
        descriptors = Unlimited(lambda: self.factory.sockets + len(self.ports) + room.count)
        self.factory = MainFactory(
            self.registry, deadlines, reactor.seconds, settings, room, descriptors=descriptors
        )
        self.service = ProxyService(
            reactor,
            [f"tcp:{MAIN_PORT}"],
            self.registry,
            self.ports,
            self.factory,
            deadlines,
            cast("Any", lock),
            port_range,
            drain_seconds=DRAIN_SECONDS,
        )
        self.factory.watch_access()
        self.service.startService()

    def stop(self) -> Deferred[None]:
        """In order: with a drain, and everything written."""
        self.stopped = self.service.stopService()
        return self.stopped

    @property
    def table(self) -> Any:
        """What it believes; only to be read."""
        return self.registry._table

    def holder_of(self, owner: Any) -> MainConnection | None:
        """The main connection that holds this lease."""
        holder = self.registry._holders.get(owner)
        return None if holder is None else cast("Any", holder).connection
