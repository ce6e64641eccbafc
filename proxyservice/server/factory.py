"""What all main connections of one service share.

The Twisted factory is that place: settings, collaborators, and the count of
connections which have not said who they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from proxyservice.errors import ProxyServiceError
from proxyservice.leases.lease import Lease, LeaseQuota, Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.net.addresses import canonical, is_private
from proxyservice.net.deadlines import Deadlines
from proxyservice.net.outlet import Outlet
from proxyservice.net.turns import Share, Turns
from proxyservice.server.access import Access
from proxyservice.server.admission import Admission
from proxyservice.server.descriptors import REMEDY, Descriptors
from proxyservice.server.lease_changes import LeaseChanges
from proxyservice.server.main import MainConnection
from proxyservice.server.memory import Memory
from proxyservice.server.pace import UNHURRIED, Pace, PacedRelayVisitor
from proxyservice.server.port_queue import PortQueue
from proxyservice.server.refusals import RefusalLog
from proxyservice.server.relay_visitor import Begun, RelayVisitor
from proxyservice.server.rules import Rules
from proxyservice.server.settings import ServiceSettings
from proxyservice.server.sources import Sources
from proxyservice.server.strangers import Strangers
from proxyservice.server.takeover import Takeovers
from proxyservice.server.visitor_gate import VisitorGate
from proxyservice.server.waiting_room import WaitingRoom, WaitingVisitor
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.relay_check import RelayScanner

ACCESS_WATCH_SECONDS = 1.0
"""How soon after its end a token's connection is cut."""

TOO_MANY = (
    "too many connections that say nothing or have no lease, or too many of its source: see "
    "connections-without-identity, strangers-per-source and connections-per-source"
)

log = Logger()


class _AccessWatch:
    """One for a service: tokens end by the wall clock, which may be set."""

    def __init__(self, factory: MainFactory) -> None:
        self._factory = factory

    def deadline_passed(self, now: float) -> float:
        if self._factory.access.has_ended():
            self._factory.check_access()
        return now + ACCESS_WATCH_SECONDS


CHECKED_IN_A_TURN = 200
"""Connections that are asked whether they are still let in, some 20 us each with their visitors."""


def _now(call: Callable[[], None]) -> None:
    """Nobody has turns."""
    call()


def _keep_on(seconds: float) -> None:
    """Nobody listens: whoever makes connections by hand need not rest."""


class MainFactory(Factory):
    """Makes and counts main connections; `now` is the monotonic clock, in seconds."""

    noisy = False

    def __init__(
        self,
        registry: LeaseRegistry,
        deadlines: Deadlines,
        now: Callable[[], float],
        settings: ServiceSettings,
        waiting_room: WaitingRoom,
        access: Access | None = None,
        descriptors: Descriptors | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.registry = registry
        self.deadlines = deadlines
        self.now = now
        self.settings = settings
        self.access = access or Access()
        self.turns = Turns() if turns is None else turns
        limits = settings.limits
        self.refusals = RefusalLog(limits.refusals_logged_a_second, now)
        self.memory = Memory(
            limits.memory_bytes,
            self._let_windows_grow,
            limits.memory_share_per_source,
            self.refusals.memory_short,
        )
        self.sources = Sources(settings)
        self.gate = VisitorGate(settings, self.sources, self.memory, now)
        self.lease_changes = LeaseChanges(settings, now)
        self.takeovers = Takeovers(registry, deadlines, now, limits, settings.times.ttl)
        self.port_queue = PortQueue(registry, deadlines, now, limits)
        self.connections: set[MainConnection] = set()
        self._promised: set[MainConnection] = set()  # they have not asked for a port yet
        self.visitors = 0
        """Of all nodes."""
        self.descriptors = descriptors or Descriptors(lambda: self.sockets)
        self.waiting_room = waiting_room
        self._warned = False
        self._empty: list[Deferred[None]] = []
        self._strangers = Strangers[MainConnection](limits, lambda one: not one.leases.any)
        self._admission = Admission(limits)
        self.rest: Callable[[float], None] = _keep_on
        """Called with seconds in which no main connection is to be taken."""
        self.next_turn: Callable[[Callable[[], None]], object] = _now
        """Has something called in the next turn of the reactor."""

    @property
    def sockets(self) -> int:
        """Main connections, visitors, and the proxy ports that are promised."""
        return len(self.connections) + self.visitors + len(self._promised)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """One protocol for each accepted socket; who may stay is decided in `arrived`.

        None closes the socket. Without an address (behind a front end it is not known yet)
        the source's share is `admits`' to look after.
        """
        host = canonical(getattr(addr, "host", ""))
        if not (self._has_room(host) and self.admits(host)):
            return None
        rest_seconds = self._admission.taken(self.now())
        if rest_seconds:
            self.rest(rest_seconds)
        connection = MainConnection()
        connection.factory = self
        return connection

    def _has_room(self, host: str) -> bool:
        """Whether there is a descriptor, and memory, for one more node.

        Else the operator is told: the node sees its connection end, and cannot know why.
        """
        if not self.descriptors.room_for_node:
            why = f"no descriptor is left for it; {REMEDY}"
        elif not self.memory.room_for_node:
            why = "memory is short; --limit memory-bytes allows more"
        else:
            return True
        self.refusals.connection(host or "a front end", why)
        return False

    def admits(self, host: str) -> bool:
        """Whether one more connection of this (canonical) address fits in its source's share."""
        source = self.sources.counted_as(host)
        if source is None or self._admission.admits(source, self.now()):
            return True
        self.refusals.connection(host, "too many connections a second from its address")
        return False

    # ------------------------------------------- connections without identity

    def arrived(self, connection: MainConnection) -> None:
        """A stranger; when there are too many, one of them goes."""
        self.connections.add(connection)
        self._promised.add(connection)
        self._warn_of_private_address(connection)
        source = self.sources.counted_as(connection.source)
        self._make_way(self._strangers.arrived(connection, source, self.now()))

    def spoke(self, connection: MainConnection) -> None:
        """Its first byte came."""
        self._make_way(self._strangers.spoke(connection))

    def _make_way(self, connection: MainConnection | None) -> None:
        if connection is not None:
            connection.abort(TOO_MANY)

    def spares(self, connection: MainConnection) -> bool:
        """Whether a silent one may stay though its time is up; how a node reconnects."""
        return self._strangers.spares(connection)

    def expects_silence(self, connection: MainConnection) -> bool:
        """Whether silent connections of its source are no news."""
        return self._strangers.has_node(connection)

    def _warn_of_private_address(self, connection: MainConnection) -> None:
        """Said once: a node out there cannot dial what this machine calls itself (protocol A4)."""
        if self._warned or self.settings.node_address:
            return
        if is_private(connection.local_host) and not is_private(connection.source):
            self._warned = True
            log.warn(
                "nodes from outside ({source}) are told that this relay is at {host}, which is "
                "private; name its public address with --node-address tcp://IP:PORT",
                source=connection.source,
                host=connection.local_host,
            )

    def identified(self, connection: MainConnection) -> None:
        """It said who it is and no longer counts as a stranger."""
        self._strangers.identified(connection)

    def take_port(self, connection: MainConnection) -> bool:
        """Whether there is a descriptor for one more port of this connection: its first has one."""
        if connection in self._promised:
            self._promised.remove(connection)
            return True
        return self.descriptors.room_for_port

    def gone(self, connection: MainConnection) -> None:
        """Its transport is closed."""
        self._strangers.forget(connection)
        self.connections.discard(connection)
        self._promised.discard(connection)
        if not self.connections:
            empty, self._empty = self._empty, []
            for waiting in empty:
                waiting.callback(None)

    def when_empty(self) -> Deferred[None]:
        """Fires when the last main connection is gone; now, when there is none."""
        empty: Deferred[None] = Deferred()
        if self.connections:
            self._empty.append(empty)
        else:
            empty.callback(None)
        return empty

    def wait_for_port(self, connection: MainConnection, owner: Owner, since: float | None) -> float:
        """None is left, and this node cannot be told: its request waits, as in `PortQueue`."""
        source = self.sources.counted_as(connection.source)
        return self.port_queue.wait(connection.leases, owner, source, since)

    def quota(self, connection: MainConnection) -> LeaseQuota | None:
        """How many leases this node may have; None: any number."""
        usual = None if self.settings.trusts(connection.source) else self.settings.quota
        return self.access.quota(connection.caller, usual)

    def welcome(self, connection: MainConnection, features: int, *, proved: bool) -> pb.Welcome:
        """What holds for this node."""
        rules = connection.rules
        welcome = self.settings.welcome(features, self.quota(connection), proved=proved)
        welcome.max_visitors = self.gate.most(rules)
        welcome.visitors_per_second = self.gate.rate(rules)
        welcome.lease_bytes_per_second = self._bytes_per_second(rules)
        return welcome

    def check_access(self) -> None:
        """After a change: end the connection of whoever would not be let in any more.

        Then the same for leases whose node is away, those that were just left included.
        """
        self.registry.reserve(self.access.own_ports, self.access.on_own_port)
        self._check_some(list(self.connections))
        for visitor in self.waiting_room:
            self._check_waiting(visitor)

    def _check_some(self, connections: list[MainConnection]) -> None:
        for connection in connections[:CHECKED_IN_A_TURN]:
            if connection in self.connections:  # it may have gone meanwhile
                connection.check_access()
        rest = connections[CHECKED_IN_A_TURN:]
        if rest:
            self.next_turn(lambda: self._check_some(rest))
        else:
            self.registry.review(self.access.judge)

    def _check_waiting(self, visitor: WaitingVisitor) -> None:
        found = self.registry.visited(visitor.proxy_port)
        if found is None or not self._rules_at(found[0]).allows_visitor(visitor.host):
            visitor.turn_away()

    def _rules_at(self, lease: Lease) -> Rules:
        """What the node of a lease is allowed while it is away."""
        caller = self.waiting_room.callers.get(lease.port)
        if caller is None:  # it was here before a restart
            return self.access.rules_while_away(lease)
        return self.access.rules(caller)

    def watch_access(self) -> None:
        """What the files say holds, and what ends by itself is seen, from now on."""
        self.registry.reserve(self.access.own_ports, self.access.on_own_port)
        self.registry.review(self.access.judge)
        self.deadlines.set(_AccessWatch(self), self.now() + ACCESS_WATCH_SECONDS)

    def _let_windows_grow(self, grow: bool) -> None:
        """Memory is short, or is no longer."""
        for connection in self.connections:
            if connection.switch is not None:
                connection.switch.multiplexer.let_windows_grow(grow)

    # -------------------------------------------------------------- visitors

    def waiting_visitor(
        self, lease: Lease, host: str, port: int, mode: int | None = None
    ) -> WaitingVisitor | None:
        """The protocol of a visitor whose node is expected back; None turns it away.

        The same rules hold as if the node were here: no place is for one it would not take.
        """
        room = self.waiting_room
        rules = self._rules_at(lease)
        refusal = self.gate.refusal(lease.owner, room.at(lease.port), host, rules)
        if refusal is not None:
            self.visitor_refused(lease, refusal)
            return None
        source = self.sources.counted_as(host)
        visitor = room.admit(lease.port, host, port, mode, source, self.gate.gone)
        if visitor is None:
            self.visitor_refused(lease, "its node is away and too many wait already")
        else:
            self.gate.came(visitor, host)
        return visitor

    def _bytes_per_second(self, rules: Rules) -> int:
        """Of a lease; 0: any number."""
        return rules.bytes_per_second or self.settings.limits.lease_bytes_per_second

    def pace(self, present: Pace | None, rules: Rules) -> Pace | None:
        """How fast the visitors of a lease may be from now on; None: as fast as they can.

        With a policy a pace may come to hold for visitors that are there, so each has one.
        """
        rate = self._bytes_per_second(rules)
        if not rate and not self.access.has_policy:
            return None
        rate = rate or UNHURRIED
        if present is None:
            return Pace(rate, self.deadlines, self.now)
        present.bytes_per_second = rate
        return present

    def relay_visitor(
        self,
        outlet: Outlet,
        lease: Lease,
        gone: Callable[[RelayVisitor], None],
        pace: Pace | None,
        host: str,
        port: int,
        begun: Begun | None,
    ) -> RelayVisitor:
        """The protocol of a visitor in message mode; `begun` is its own of an earlier time."""
        kind = RelayVisitor if pace is None else partial(PacedRelayVisitor, pace)
        share = Share(self.turns, self.sources.counted_as(host))
        scanner = self._scanner() if begun is None else begun.scanner
        scanner.take = share.take
        return kind(
            scanner,
            outlet,
            self.deadlines,
            self.now,
            self.settings.limits,
            self.memory,
            self.turns,
            share,
            self.sources.counted_as(host),
            lambda reason: self.visitor_refused(lease, reason),
            gone,
            host,
            port,
        )

    def _scanner(self) -> RelayScanner:
        limits = self.settings.limits
        return RelayScanner(
            self.settings.network_id, limits.max_frame_bytes, limits.inflate_check_bytes
        )

    # ---------------------------------------------------------------- the log

    def refused(self, connection: MainConnection, error: ProxyServiceError) -> None:
        """Tell the log; the peer's bytes are never in it."""
        self.refusals.node(connection.source, str(error))

    def visitor_refused(self, lease: Lease, reason: str) -> None:
        """Tell the log about a visitor that was turned away or closed."""
        self.refusals.visitor(lease.port, reason)
