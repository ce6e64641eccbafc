"""One seed: an hour of the library's node, towards relays of which some lie."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from random import Random
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.logger import globalLogPublisher

from proxyservice.net import eager, race
from proxyservice.net.eager import EagerProtocol
from proxyservice.net.lean_loop import turn_end
from proxyservice.node import client
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.node import Node
from proxyservice.node.streams import FactoryAcceptor
from proxyservice.wire import proxyservice_pb2 as pb
from tests.simulation.applications import Calm, Raised, RaisingAcceptor, RaisingEvents, Wild
from tests.simulation.dialled import Dialled, Lookups, Place, places_of
from tests.simulation.network import Network, Socket
from tests.simulation.node_ledger import NodeLedger
from tests.simulation.reactor import Reactor
from tests.simulation.scripted_relay import ScriptedRelay
from tests.simulation.story import Story
from tests.simulation.timeline import Timeline

HOUR_SECONDS = 3600.0
UNREST_SECONDS = 2700.0
"""Then the bad relays are gone for good, and the good one stays."""

STOP_SECONDS = 10.0


class NodeWorld:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = pick = Random(seed)
        self._story = Story()
        self._serials = count(seed * 1_000_003)
        self.timeline = Timeline(self._turn)
        self.network = Network(self.timeline, seed, splits=0.3, stalls=0.0)
        self.reactor = Reactor(self.timeline, self.network, 1e6, frozenset())
        self.fates: dict[str, int] = {}
        self.messages: set[bytes] = set()
        self.stopping = False
        self.clock_right_at = pick.choice((0.0, 0.0, 60.0, 1500.0))
        good = pick.randrange(pick.randrange(1, 5))
        self.relays = [
            ScriptedRelay(self, number, is_good=number == good, has_dates=pick.random() < 0.5)
            for number in range(pick.randrange(good + 1, 5))
        ]
        self.good = self.relays[good]
        self._places: dict[str, list[Place]] = {
            one.name: places_of(one, number, pick) for number, one in enumerate(self.relays)
        }
        self._by_address = {one.text: one for many in self._places.values() for one in many}
        self.node = self._make_node()
        self.ledger = NodeLedger(self)

    def _make_node(self) -> Node:
        pick, reactor = self.random, self.reactor
        key = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
        node = Node(
            [f"{one.name}:{one.port}" for one in self.relays],
            reactor=reactor,
            identity=NodeIdentity(key=key),
            events=RaisingEvents(self, pick),
        )
        calm, wild = Calm(reactor, pick), Wild(reactor, pick)
        node.lease()
        for origin, acceptor in (
            ("rude", RaisingAcceptor(FactoryAcceptor(calm, reactor), pick)),  # type: ignore[arg-type]
            ("calm", FactoryAcceptor(calm, reactor)),  # type: ignore[arg-type]
            ("wild", FactoryAcceptor(wild, reactor)),  # type: ignore[arg-type]
        ):
            lease = node.lease(origin, mode=pb.MODE_STREAMS, acceptor=acceptor)
            lease.on_address(self._raise_now_and_then)
        node.on_message(self._raise_now_and_then)
        node.on_message(lambda message: self.messages.add(message.payload))
        return node

    def _raise_now_and_then(self, told: object) -> None:
        if self.random.random() < 0.3:
            raise Raised("a listener")

    # ----------------------------------------------------------------- its end

    def run(self) -> None:
        with self._stand_ins():
            for one in self.relays:
                one.start()
            self.timeline.after(self.clock_right_at, self.trace, "the clock is right")
            self._befall()
            self.node.startService()
            self.timeline.run(UNREST_SECONDS)
            self._calm_down()
            self.timeline.run(HOUR_SECONDS)
            self.ledger.check_served()
            self._stop()

    def _calm_down(self) -> None:
        self.stopping = True
        self.trace("the bad relays are gone")
        for one in self.relays:
            one.crash() if one is not self.good else one.start()

    def _stop(self) -> None:
        stopped: list[object] = []
        self.ledger.stops()
        self.trace("the node stops")
        self.node.stopService().addCallback(stopped.append)
        self.timeline.run(HOUR_SECONDS + STOP_SECONDS)
        assert stopped, "the node does not stop"
        self.ledger.check_nothing_is_left()

    def _turn(self) -> None:
        self.reactor.turn()
        self.ledger.observe()
        assert not self._story.problems, self._story.problems[0]

    # ------------------------------------------------------------------ faults

    @property
    def clock_is_behind(self) -> bool:
        return self.timeline.now < self.clock_right_at

    def _befall(self) -> None:
        self.timeline.after(self.random.expovariate(1 / 200), self._fault)

    def _fault(self) -> None:
        if self.stopping:
            return
        one = self.random.choice(self.relays)
        if self.random.random() < 0.3:
            one.drain()
        elif one.up_since is not None:
            one.crash()
            self.timeline.after(self.random.choice((1.0, 30.0, 400.0)), one.start)
        self._befall()

    # --------------------------------------------------------------- accounts

    def next_seed(self) -> int:
        return next(self._serials)

    def count(self, fate: str) -> None:
        self.fates[fate] = self.fates.get(fate, 0) + 1

    def trace(self, *words: object) -> None:
        self._story.tell(self.timeline.now, *words)

    def told(self, what: str, *words: Any) -> None:
        """What the node's events say."""
        self.trace("the node", what, *words)
        self.count(what)
        self.ledger.told(what, *words)

    def check_leaving(self, relay: ScriptedRelay) -> None:
        """A good relay that did nothing sees the end of a connection."""
        assert self.ledger.is_stopping, f"the node left {relay.name}, which did nothing"

    def _logged(self, event: Any) -> None:
        failure = event.get("log_failure")
        is_raised = failure is not None and failure.check(Raised, SystemExit) is not None
        is_meant = is_raised and "what" in event  # as net/foreign.py tells it
        self._story.logged(self.timeline.now, event, is_meant=is_meant)

    def story(self) -> str:
        """The last events, a line each."""
        return self._story.text()

    def _dial(self, reactor: Reactor, where: tuple[str, int], *others: Any) -> Dialled:
        return Dialled(self._by_address[where[0]], reactor, where, *others)

    @contextmanager
    def _stand_ins(self) -> Iterator[None]:
        """For threads, sockets and chance, and for what differs from run to run."""
        serials = count()
        lookups = Lookups(self.reactor, self._places, Random(self.seed + 1))

        def numbered(made: Any) -> int:
            if "serial" not in vars(made):
                made.serial = next(serials)
            return int(made.serial)

        with ExitStack() as stack:
            for where, name, stand_in in (
                (race, "Dial", self._dial),
                (client, "lookups_of", lambda reactor: lookups),
                (eager, "send", Socket.send),
                (EagerProtocol, "__hash__", numbered),
                (turn_end, "active", True),
            ):
                stack.enter_context(patch.object(where, name, stand_in))
            stack.callback(random.setstate, random.getstate())
            random.seed(self.seed)
            logged: Any = self._logged
            globalLogPublisher.addObserver(logged)
            stack.callback(globalLogPublisher.removeObserver, logged)
            yield
