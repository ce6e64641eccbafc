"""One seed: an hour of a service, its nodes and visitors, and what befalls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from random import Random
from typing import Any
from unittest.mock import patch

from twisted.logger import globalLogPublisher

from proxyservice.errors import StoreError
from proxyservice.leases import commits, record, store
from proxyservice.leases.lease import Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.net import eager
from proxyservice.net.eager import EagerProtocol
from proxyservice.net.lean_loop import turn_end
from proxyservice.server import drain, handshake, ports, service, takeover
from proxyservice.wire import proxyservice_pb2 as pb
from tests.simulation.disk import Disk, Thread
from tests.simulation.ledger import HEARTBEAT_SECONDS, Ledger
from tests.simulation.network import Network, Socket
from tests.simulation.node_connection import NodeConnection
from tests.simulation.nodes import Node
from tests.simulation.reactor import Reactor, acknowledged_bytes
from tests.simulation.relay import DRAIN_SECONDS, MAIN_PORT, Lock, Relay
from tests.simulation.story import Story
from tests.simulation.timeline import Timeline
from tests.simulation.visitors import LONGEST_SECONDS, MessageVisitor, StreamVisitor

HOUR_SECONDS = 3600.0
UNREST_SECONDS = HOUR_SECONDS - LONGEST_SECONDS - 2 * DRAIN_SECONDS
"""Then nobody comes any more, and whoever is there must be done with in time."""

FIRST_PORT = 20000


class World:
    def __init__(self, seed: int, registry_class: type[LeaseRegistry] = LeaseRegistry) -> None:
        self.seed, self._registry_class = seed, registry_class
        self.random = pick = Random(seed)
        self._story = Story()
        self.timeline = Timeline(self._turn)
        stalls = pick.choice((0.0, 0.005, 0.03))
        self.network = Network(self.timeline, seed, splits=0.3, stalls=stalls)
        self.disk = Disk(self.timeline, Random(seed + 1))
        self.ledger = Ledger(self)
        self.port_range = range(FIRST_PORT, FIRST_PORT + pick.randrange(3, 8))
        self._ranges = Random(seed + 2)
        self._other_range = self._another_range()
        self.quiet = False
        self.wall_offset = 1.8e9
        self.taken_until: dict[int, float] = {}
        self.addresses: dict[int, int] = {}  # what visitors know: ports with their modes
        self.connections: dict[int, NodeConnection] = {}
        self.relayed: dict[tuple[int, int], bytes] = {}
        self.delivered: set[tuple[int, int]] = set()
        self.first_heard: dict[int, NodeConnection] = {}  # by visitors that sent messages
        self.fates: dict[str, int] = {}
        self.killed_at = -1.0
        self.nodes = [Node(self, 1, proves=False), Node(self, 2, proves=True)]
        self.nodes += [
            Node(self, number, proves=pick.random() < 0.6)
            for number in range(3, pick.randrange(4, 6))
        ]
        self._lock = Lock()
        self._visitors = 0
        self._pace = pick.choice((0.5, 1.0, 1.0, 2.0))
        self.relay: Relay | None = None

    # ----------------------------------------------------------------- its end

    def run(self) -> None:
        with self._stand_ins():
            self._start()
            for node in self.nodes:
                node.come_after(self.random.random() * 20)
            for mean, fault in self._faults():
                self._befall(mean, fault)
            self.timeline.run(UNREST_SECONDS)
            self._calm_down()
            self.timeline.run(HOUR_SECONDS - 2 * DRAIN_SECONDS)
            self._stop_for_good()
            self.timeline.run(HOUR_SECONDS)
            assert self.relay is None, "the service does not stop"
            self._start()
            self._stop_for_good()
            self.timeline.run(HOUR_SECONDS + DRAIN_SECONDS)
            assert self.relay is None, "the service does not stop"

    def _calm_down(self) -> None:
        self.quiet = True
        self.disk.failing = self.disk.slow = False

    def _stop_for_good(self) -> None:
        assert self.relay is not None, "it should have come back"
        if self.relay.stopped is None:
            self._stop()

    def _stop(self, then: Callable[[], None] = lambda: None) -> None:
        assert self.relay is not None
        # Later: what is wrong with it must not end in the Deferred.
        self.relay.stop().addCallback(lambda _: self.timeline.after(0, self._stopped, then))

    def _turn(self) -> None:
        if self.relay is not None:
            self.relay.reactor.turn()
            self.ledger.observe()
        assert not self._story.problems, self._story.problems[0]

    # ------------------------------------------------------- starts and stops

    def _another_range(self) -> range | None:
        """What some operators start with by mistake: it has some of the ports, or none."""
        if self._ranges.random() < 0.6:
            return None
        moved = self._ranges.choice((2, len(self.port_range)))
        return range(self.port_range.start + moved, self.port_range.stop + moved)

    def _start(self) -> None:
        if self._other_range is not None and self._ranges.random() < 0.4:
            self.port_range, self._other_range = self._other_range, self.port_range
            self.trace("the range is", self.port_range)
        began_at = self.random.choice((5.0, 1e6))
        own_ports = frozenset((MAIN_PORT, *self.port_range, *(self._other_range or ())))
        reactor = Reactor(self.timeline, self.network, began_at, own_ports)
        try:
            self.relay = Relay(
                reactor, self.disk, self._lock, self.port_range, self._wall, self._registry_class
            )
        except StoreError:
            self.timeline.after(5.0, self._start)
            return
        self.trace("the service starts")
        self.ledger.started(self.relay)

    def _wall(self) -> float:
        return self.timeline.now + self.wall_offset

    def crash(self) -> None:
        """The process is killed, or the machine loses its power."""
        if self.relay is None:
            return
        power = self.random.random() < 0.3
        self.trace("the power fails" if power else "the service is killed")
        self.killed_at = self.timeline.now
        self.ledger.stopped()
        self.relay.reactor.kill(power=power)
        self.relay = None
        self._lock = Lock()
        self._start_again()

    def restart(self) -> None:
        if self.relay is not None and self.relay.stopped is None:
            self.trace("the service is told to stop")
            self._stop(self._start_again)

    def _stopped(self, then: Callable[[], None]) -> None:
        if self.relay is None or self.relay.stopped is None:
            return  # it was killed in the last moment
        self.trace("the service has stopped")
        reactor = self.relay.reactor
        left = [one.args[0] for one in reactor.getDelayedCalls()]
        assert not left, f"delayed calls are left: {left}"
        assert not reactor.descriptors, "descriptors are left"
        self.ledger.stopped()
        self.relay = None
        then()

    def _start_again(self) -> None:
        self.timeline.after(self.random.choice((0.2, 2.0, 20.0, 90.0)), self._start)

    # ------------------------------------------------------------------ faults

    def _faults(self) -> list[tuple[float, Any]]:
        """How many seconds there are between two of a kind, and what happens."""
        return [
            (35.0, self.visit),
            (900.0 * self._pace, self.crash),
            (1500.0 * self._pace, self.restart),
            (300.0 * self._pace, self.slow_disk),
            (600.0 * self._pace, self.failing_disk),
            (500.0, self.wall_jump),
            (300.0 * self._pace, self.take_port),
            (2000.0, self.revoke),
        ]

    def _befall(self, mean: float, fault: Any) -> None:
        self.timeline.after(self.random.expovariate(1 / mean), self._fault, mean, fault)

    def _fault(self, mean: float, fault: Any) -> None:
        if not self.quiet:
            fault()
            self._befall(mean, fault)

    def visit(self) -> None:
        if not self.addresses:
            return
        self._visitors += 1
        port = self.random.choice(list(self.addresses))
        streams = self.addresses[port] == pb.MODE_STREAMS
        (StreamVisitor if streams else MessageVisitor)(self, self._visitors, port)

    def slow_disk(self) -> None:
        self.trace("the disk is slow")
        self.disk.slow = True
        self.timeline.after(self.random.random() * 60, setattr, self.disk, "slow", False)

    def failing_disk(self) -> None:
        self.trace("the disk fails")
        self.disk.failing = True
        self.timeline.after(self.random.random() * 50, setattr, self.disk, "failing", False)

    def wall_jump(self) -> None:
        seconds = self.random.choice((-86400.0, -3600.0, 3600.0, 86400.0))
        self.trace("the wall clock jumps by", seconds)
        self.wall_offset += seconds

    def take_port(self) -> None:
        """Another program listens there, for a while."""
        port = self.random.choice(self.port_range)
        if port in self.network.listeners:
            return
        self.trace("another program takes", port)
        self.network.taken.add(port)
        seconds = self.random.random() * 100
        self.taken_until[port] = self.timeline.now + seconds
        self.timeline.after(seconds, self.network.taken.discard, port)

    def revoke(self) -> None:
        if self.relay is None or self.relay.stopped is not None or not self.ledger.leases:
            return
        owner = self.random.choice(list(self.ledger.leases))
        self.trace("the operator revokes", self.name_of(owner))
        self.ledger.revoked = owner
        self.relay.registry.revoke(owner.__eq__)

    # --------------------------------------------------------------- accounts

    def trace(self, *words: object) -> None:
        self._story.tell(self.timeline.now, *words)

    def _logged(self, event: Any) -> None:
        self._story.logged(self.timeline.now, event)

    def story(self) -> str:
        """The last events, a line each."""
        return self._story.text()

    def check_waits(self, connection: NodeConnection) -> None:
        """A node of part A is not answered: the service must know, and have no port for it."""
        if self.relay is None or connection.began_at <= self.killed_at:
            return  # nobody knows of it any more
        if any(
            one.leases.pending and one.transport.getPeer().port == connection.number
            for one in self.relay.factory.connections
        ):
            return  # its grant is on its way to a slow disk
        self.fates["waits for a port"] = self.fates.get("waits for a port", 0) + 1
        waiting = [
            one.transport.getPeer().port
            for one in self.relay.factory.connections
            if one.leases.waits_for_port
        ]
        assert connection.number in waiting, f"{connection.name} got no answer, and does not wait"
        self.ledger.check_no_port_is_left()

    def name_of(self, owner: Owner) -> str:
        name = next(one.name for one in self.nodes if one.identity == owner.identity)
        return f"{name} ({owner.origin})" if owner.origin else name

    def connections_of(self, identity: object) -> Iterator[NodeConnection]:
        return (one for one in self.connections.values() if one.node.identity == identity)

    @contextmanager
    def _stand_ins(self) -> Iterator[None]:
        """For threads, sockets and chance, and for what differs from run to run."""
        serials = count()
        secret = Random(self.seed)

        def numbered(self: Any) -> int:
            if "serial" not in vars(self):
                self.serial = next(serials)
            return int(self.serial)

        with ExitStack() as stack:
            for where, name, stand_in in (
                (commits, "ThreadPool", Thread),
                (commits, "deferToThreadPool", self.disk.defer),
                (store, "connect", self.disk.connect),
                (
                    ports,
                    "_listening_socket",
                    lambda family, host, port, *_: self.network.listen(port),
                ),
                (eager, "send", Socket.send),
                (takeover, "acknowledged_bytes", acknowledged_bytes),
                (drain, "random", secret),
                (service, "TICK_SECONDS", 1.0),
                (record, "HEARTBEAT_SECONDS", HEARTBEAT_SECONDS),
                (vars(handshake)["secrets"], "token_bytes", secret.randbytes),
                (EagerProtocol, "__hash__", numbered),
                (turn_end, "active", True),
            ):
                stack.enter_context(patch.object(where, name, stand_in))
            logged: Any = self._logged
            globalLogPublisher.addObserver(logged)
            stack.callback(globalLogPublisher.removeObserver, logged)
            yield
