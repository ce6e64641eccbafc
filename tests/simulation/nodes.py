"""Scripted nodes: they come, ask, move, release, vanish and come back, at moments of their own."""

from __future__ import annotations

import errno
from random import Random
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.leases.lease import Identity, Owner
from proxyservice.wire import proxyservice_pb2 as pb
from tests.simulation.node_connection import NodeConnection
from tests.simulation.relay import KEEPALIVE_SECONDS, TIMES

if TYPE_CHECKING:
    from tests.simulation.world import World

SESSION_SECONDS = 150.0
HURRIED = 0.3
"""Sessions of a node that does everything at once and comes again."""

ABSENCES = (0.05, 0.5, 3.0, 8.0, 30.0, 90.0, TIMES.ttl * 1.5, TIMES.proved_ttl * 1.2)
ABSENCE_WEIGHTS = (4, 4, 4, 4, 4, 4, 2, 1)


class Node:
    """One identity. With a key it speaks part B and has one or two leases, else part A."""

    def __init__(self, world: World, number: int, *, proves: bool) -> None:
        self.world, self.number = world, number
        self.random = Random(world.seed * 5_000_011 + number)
        self.name = f"node {number}"
        self.key = None
        self.sender = pb.ID(
            net_key=b"key", address="tcp://127.0.0.1:9", connection_id=b"%d" % number
        )
        identity = Identity(False, b"key", b"%d" % number)
        self.origins = {"": pb.MODE_MESSAGES}
        if proves:
            self.key = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
            net_key = self.key.public_key().public_bytes_raw()
            self.sender = pb.ID(net_key=net_key, address="tcp://127.0.0.1:9")
            identity = Identity(True, net_key)
            self.origins = {"web": pb.MODE_STREAMS}
            if self.random.random() < 0.5:
                self.origins["ssh"] = self.random.choice((pb.MODE_STREAMS, pb.MODE_MESSAGES))
        self.identity = identity
        self.connection: NodeConnection | None = None
        self._plans = 0

    def owner(self, origin: str) -> Owner:
        return Owner(self.identity, origin)

    def _later(self, seconds: float, call: Any, *args: Any) -> None:
        self.world.timeline.after(seconds, call, *args)

    # ------------------------------------------------------- coming and going

    def come_after(self, seconds: float) -> None:
        """The latest plan counts."""
        self._plans += 1
        self._later(seconds, self._come, self._plans)

    def _come(self, plan: int) -> None:
        if plan != self._plans or self.world.quiet:
            return
        source = f"192.0.2.{self.number * 10 + (self.random.random() < 0.3)}"
        self.world.trace(self.name, "dials from", source)
        self.connection = NodeConnection(self, source)
        self._later(20.0 + self.random.expovariate(1 / SESSION_SECONDS), self._go, self.connection)

    def _go(self, connection: NodeConnection) -> None:
        """In order, with RST, cut off, or for another connection while this one stays a while."""
        if connection is not self.connection or connection.over:
            return
        self.connection = None
        how = self.random.choice(("closes", "resets", "is cut off", "forgets"))
        self.world.trace(connection.name, how)
        if how == "closes":
            connection.close()
        elif how == "resets":
            connection.reset()
        elif how == "is cut off":
            self.cut(connection)
        else:
            self._later(self.random.random() * 30, self._close_late, connection)
        self.come_after(self._absence())

    def cut(self, connection: NodeConnection) -> None:
        """Nothing arrives any more; TCP gives up after a while, at either end."""
        connection.line.dark = True
        network = self.world.network
        self._later(30.0, network.give_up, connection.line, errno.ETIMEDOUT)

    def _close_late(self, connection: NodeConnection) -> None:
        self.world.trace(connection.name, "closes late")
        connection.close()

    def _absence(self) -> float:
        (longest,) = self.random.choices(ABSENCES, ABSENCE_WEIGHTS)
        return longest * (0.5 + self.random.random() / 2)

    def lost(self, connection: NodeConnection) -> None:
        """The service, or the network, has ended it."""
        self.world.trace(connection.name, "is lost")
        if connection is self.connection:
            self.connection = None
            self.come_after(self.random.choice((0.2, 2.0, 10.0)) * (1 + self.random.random()))

    # ---------------------------------------------------------- while it lasts

    def welcome(self, connection: NodeConnection) -> None:
        for origin, mode in self.origins.items():
            connection.ask(origin, mode)
        if self.key is None:
            return
        self._alive(connection)
        if self.random.random() < HURRIED:
            self._hurry(connection)
        else:
            self._later(self.random.random() * 200, self._act, connection)

    def _alive(self, connection: NodeConnection) -> None:
        if not connection.over:
            connection.keepalive()
            self._later(KEEPALIVE_SECONDS, self._alive, connection)

    def _act(self, connection: NodeConnection) -> None:
        """Something that a node does seldom."""
        if connection.over or connection.closing or connection is not self.connection:
            return
        origin = self.random.choice(list(self.origins))
        if self.random.random() < 0.5:
            self._ask_for_another(connection, origin)
        else:
            connection.release(origin)
            self._later(self.random.choice((0.1, 5.0, 60.0)), self._ask_again, connection, origin)
        self._later(self.random.random() * 200, self._act, connection)

    def _ask_for_another(self, connection: NodeConnection, origin: str) -> None:
        ports = list(self.world.port_range)
        if self.random.random() < 0.7:  # one that may be had
            ports = [port for port in ports if port not in self.world.network.listeners] or ports
        wanted = self.random.choice(ports)
        connection.ask(origin, self.origins[origin], wanted)

    def _ask_again(self, connection: NodeConnection, origin: str) -> None:
        if not connection.over and not connection.closing:
            connection.ask(origin, self.origins[origin])

    def _hurry(self, connection: NodeConnection) -> None:
        """Several things at once, and then another connection, while the store is still busy."""
        at = self.random.random() * 5
        if self.random.random() < 0.5:
            self._later(at, self.world.slow_disk)
        for act in self.random.choice(HURRIES):
            at += self.random.random() ** 2
            origin = self.random.choice(list(self.origins))
            self._later(at, self._hurried, connection, origin, act)
        self._later(at + self.random.random(), self._leave_in_a_hurry, connection)

    def _hurried(self, connection: NodeConnection, origin: str, act: Any) -> None:
        if not connection.over and not connection.closing:
            act(self, connection, origin)

    def _release(self, connection: NodeConnection, origin: str) -> None:
        connection.release(origin)

    def _leave_in_a_hurry(self, connection: NodeConnection) -> None:
        if connection is self.connection and not connection.over:
            self.connection = None
            self.come_after(0.01)
            self._later(self.random.random() * 3, connection.reset)

    # -------------------------------------------------------- what it is told

    def told(self, connection: NodeConnection, origin: str, port: int, payload: Any) -> None:
        self.world.addresses[port] = self.origins[origin]
        self.world.ledger.told(connection, self.owner(origin), port, payload.generation)

    def refused(self, connection: NodeConnection, origin: str, code: int) -> None:
        if origin not in connection.told:
            self._later(5.0 + self.random.random() * 20, self._ask_again, connection, origin)

    def has_released(self, connection: NodeConnection, origin: str) -> None:
        self.world.ledger.released(connection, self.owner(origin))


HURRIES = (
    (Node._ask_for_another,),
    (Node._release,),
    (Node._ask_for_another, Node._release),
    (Node._release, Node._ask_for_another),
    (Node._ask_for_another, Node._ask_for_another, Node._release),
)
