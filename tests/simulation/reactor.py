"""A reactor on simulated time and simulated sockets: level-triggered, in a fixed order."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.posixbase import PosixReactorBase

from proxyservice.net.lean_loop import turn_end
from tests.simulation.network import Listener, Network, Socket
from tests.simulation.timeline import Call, Timeline

ROUNDS = 10_000
"""Rounds of one turn at most: beyond, somebody is called for ever and does nothing."""


class Reactor:
    """Of one process of the service, whose monotonic clock began at some other time."""

    _disconnectSelectable: Any = PosixReactorBase._disconnectSelectable

    def __init__(
        self, timeline: Timeline, network: Network, began_at: float, own_ports: frozenset[int]
    ) -> None:
        self._timeline = timeline
        self.network = network
        self._own_ports = own_ports
        self._offset = began_at - timeline.now
        self._readers: dict[int, Any] = {}
        self._writers: dict[int, Any] = {}
        self._touched: dict[int, None] = {}
        self.alive = True

    # ------------------------------------------------------------------ time

    def seconds(self) -> float:
        return self._timeline.now + self._offset

    def callLater(self, seconds: float, call: Any, *args: Any, **kwargs: Any) -> Call:
        return self._timeline.schedule(seconds, self._called, (call, args, kwargs), {}, self)

    def _called(self, call: Any, args: Any, kwargs: Any) -> None:
        if self.alive:
            call(*args, **kwargs)

    def from_thread(self, seconds: float, call: Any, *args: Any) -> None:
        """Another thread will do this then; nothing, when the process is gone."""
        self._timeline.after(seconds, self._called, call, args, {})

    def callWhenRunning(self, call: Any, *args: Any) -> None:
        call(*args)

    def getDelayedCalls(self) -> list[Call]:
        return self._timeline.owned_by(self)

    # ----------------------------------------------------------- descriptors

    def addReader(self, descriptor: Any) -> None:
        self._add(self._readers, descriptor)

    def addWriter(self, descriptor: Any) -> None:
        self._add(self._writers, descriptor)

    def _add(self, registered: dict[int, Any], descriptor: Any) -> None:
        number = descriptor.fileno()
        registered[number] = descriptor
        self._touched[number] = None
        opened = self.network.sockets.get(number)
        if opened is not None:
            opened.wake = partial(self._touched.__setitem__, number, None)

    def removeReader(self, descriptor: Any) -> None:
        self._readers.pop(descriptor.fileno(), None)

    def removeWriter(self, descriptor: Any) -> None:
        self._writers.pop(descriptor.fileno(), None)

    @property
    def descriptors(self) -> int:
        return len(self._readers.keys() | self._writers.keys())

    def turn(self) -> None:
        """Everything that can be read or written, and the end of the turn, until there is none."""
        if not self._touched and not turn_end._calls:
            return
        for _ in range(ROUNDS):
            touched = list(self._touched)
            self._touched.clear()
            for number in touched:
                self._attend(number, self._readers, "readable", "doRead")
                self._attend(number, self._writers, "writable", "doWrite")
            if not turn_end.run() and not self._touched:
                return
        raise AssertionError("a turn without end")

    def _attend(self, number: int, registered: dict[int, Any], ready: str, act: str) -> None:
        descriptor, opened = registered.get(number), self.network.sockets.get(number)
        if descriptor is None or opened is None or not getattr(opened, ready):
            return
        why = getattr(descriptor, act)()
        if why:
            self._disconnectSelectable(descriptor, why, act == "doRead")
        if number in registered and getattr(opened, ready):
            self._touched[number] = None

    def kill(self, *, power: bool) -> None:
        """The process is gone: its kernel closes its sockets, if the kernel is left."""
        self.alive = False
        for planned in self.getDelayedCalls():
            planned.cancel()
        self._readers.clear()
        self._writers.clear()
        self._touched.clear()
        for opened in list(self.network.sockets.values()):
            if isinstance(opened, Listener) or opened.here[1] in self._own_ports:
                opened.wake = lambda: None
                (opened.vanish if power else opened.close)()
        turn_end._calls.clear()

    # ------------------------------------------------------------- listening

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        return MainPort(self, self.network.listen(port), factory)


class MainPort:
    """Stands for Twisted's `Port`."""

    transport: Any = None
    numberAccepts = 100

    def __init__(self, reactor: Reactor, listener: Listener, factory: Any) -> None:
        self._reactor, self._factory = reactor, factory
        self.socket = listener
        self._realPortNumber = listener.port
        self._accepted = 0
        self.startReading()

    def fileno(self) -> int:
        return self.socket.number

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self.socket.getsockname())

    def startReading(self) -> None:
        self._reactor.addReader(self)

    def stopReading(self) -> None:
        self._reactor.removeReader(self)

    def doRead(self) -> None:
        accepted, peer = self.socket.accept()
        protocol = self._factory.buildProtocol(IPv4Address("TCP", *peer))
        if protocol is None:
            accepted.close()
            return
        self._accepted += 1
        transport = self.transport(accepted, protocol, peer, self, self._accepted, self._reactor)
        protocol.makeConnection(transport)

    def stopListening(self) -> Deferred[None]:
        self.stopReading()
        self.socket.close()
        return succeed(None)


def acknowledged_bytes(transport: Any) -> int:
    """What SIOCOUTQ tells of a simulated socket."""
    opened: Socket = transport.getHandle()
    return int(transport.sent_bytes) - opened.in_flight
