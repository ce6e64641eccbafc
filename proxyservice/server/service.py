"""The whole service: registry, proxy ports, main ports, the tick, and an orderly end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from proxyservice.errors import StartError
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.net.deadlines import Deadlines
from proxyservice.net.lean_loop import turn_end
from proxyservice.server.drain import Drain
from proxyservice.server.factory import MainFactory
from proxyservice.server.front_end import warn_if_open
from proxyservice.server.main_ports import MainPort, take_few_in_a_turn
from proxyservice.server.notify import Notifier
from proxyservice.server.ports import ProxyPorts
from proxyservice.server.tls import ServerCertificate
from proxyservice.state_lock import StateLock

TICK_SECONDS = 0.25
"""How exactly deadlines are kept; the shortest is one second."""

log = Logger()


class ProxyService(Service):
    """Started before the reactor runs: what fails then ends the start, with nothing left over."""

    def __init__(
        self,
        reactor: Any,
        endpoints: list[str],
        registry: LeaseRegistry,
        ports: ProxyPorts,
        factory: MainFactory,
        deadlines: Deadlines,
        lock: StateLock,
        port_range: range,
        certificate: ServerCertificate | None = None,
        drain_seconds: float = 0.0,
        notifier: Notifier | None = None,
        remember_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._endpoints = endpoints
        self._registry = registry
        self._ports = ports
        self._factory = factory
        self._deadlines = deadlines
        self._lock = lock
        self._port_range = port_range
        self._certificate = certificate  # for endpoints that begin with `tls:`
        self._drain = Drain(reactor, factory, drain_seconds)
        self._notifier = notifier or Notifier({}, 0)
        self._remember_start = remember_start  # for backups; may raise StartError
        self._main_ports: list[Any] = []
        self._resting: Any = None  # until then the main ports accept nobody
        factory.rest = self._rest
        self._tick: Any = None

    def startService(self) -> None:
        """Lock, open the store, listen. Raises StartError or StoreError."""
        self._factory.descriptors.raise_limit()
        self._lock.take()
        try:
            self._registry.startService()
        except BaseException:
            self._lock.release()
            raise
        try:
            self._remember_start()
            for endpoint in self._endpoints:
                self._listen(endpoint)
        except StartError:
            self._abandon()
            raise
        super().startService()
        self._tick = self._reactor.callLater(TICK_SECONDS, self._ticked)
        self._announce()
        self._reactor.callWhenRunning(self._notifier.ready)

    def _listen(self, description: str) -> None:
        main_port = MainPort.parse(description)
        factory = main_port.factory(self._factory, self._certificate)
        try:
            listening = main_port.server(self._reactor).listen(factory)
        except ValueError as error:
            raise StartError(f"cannot listen on {description}: {error}") from None
        outcome: list[Any] = []
        listening.addBoth(outcome.append)
        port: Any = outcome[0] if outcome else None
        if not hasattr(port, "getHost"):
            why = getattr(port, "value", "it does not listen at once")
            if isinstance(why, CannotListenError):
                why = why.socketError
            raise StartError(f"cannot listen on {description}: {why}; choose another --listen")
        if main_port.front_end:
            warn_if_open(port.getHost().host)
        port.transport = main_port.transport
        take_few_in_a_turn(port)
        # Endpoint strings stop at Twisted's 50.
        self._main_ports.append(port)
        try:
            port.socket.listen(self._factory.settings.limits.backlog)
        except OSError as error:
            raise StartError(f"cannot listen on {description}: {error.strerror}") from None

    def _rest(self, seconds: float) -> None:
        """More nodes come than can be served at a time: the kernel keeps them for a moment."""
        if self._resting is not None:
            self._resting.reset(seconds)  # more were taken in the same turn
        elif self.running:
            for port in self._main_ports:
                port.stopReading()
            self._resting = self._reactor.callLater(seconds, self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        if self.running:
            for port in self._main_ports:
                port.startReading()

    def _abandon(self) -> None:
        for port in self._main_ports:
            port.stopListening()
        self._registry.abandon_start()
        self._lock.release()

    def _announce(self) -> None:
        descriptors = self._factory.descriptors
        for port in self._main_ports:
            host = port.getHost()
            log.info(
                "started: nodes connect to {host} port {port}, network id {network_id}, leasing "
                "ports {low}-{high}; {descriptors} descriptors are room for {nodes} nodes with "
                "one visitor each",
                host=host.host,
                port=host.port,
                network_id=self._factory.settings.network_id,
                low=self._port_range.start,
                high=self._port_range.stop - 1,
                descriptors=descriptors.limit,
                nodes=descriptors.nodes,
            )

    def visitor_arrived(self, port: int, host: str, visitor_port: int) -> Protocol | None:
        """A connection to a proxy port; its holder decides."""
        found = self._registry.visited(port)
        if found is None:
            return None
        if not self._factory.descriptors.room_for_visitor:
            return None
        lease, holder = found
        if holder is None:
            return self._factory.waiting_visitor(lease, host, visitor_port)
        accept: Callable[..., Protocol | None] = holder.visitor_arrived  # type: ignore[attr-defined]
        return accept(lease, host, visitor_port)

    def _ticked(self) -> None:
        self._tick = self._reactor.callLater(TICK_SECONDS, self._ticked)
        now = self._reactor.seconds()
        self._deadlines.tick(now)
        self._notifier.alive(now)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Let nobody in, have what is under way finish, write what is remembered."""
        super().stopService()
        self._notifier.stopping()
        for port in self._main_ports:
            yield port.stopListening()
        self._ports.close()
        self._factory.waiting_room.close()
        yield self._drain.begin()
        self._tick.cancel()
        for connection in list(self._factory.connections):
            connection.abort("the service stops")
        self._ports.close()  # what a late grant has bound
        stopped: Deferred[None] = self._registry.stopService()
        yield stopped
        self._lock.release()
        log.info("stopped; every lease is remembered")
        if turn_end.active:
            longest_ms = turn_end.longest_turn_seconds * 1000
            log.info("the longest turn took {longest_ms:.1f} ms", longest_ms=longest_ms)
