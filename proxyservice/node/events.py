"""What happens to a node, one method an event; by default a line in the log each.

Subclass to print, count or show; nothing depends on what these methods do, and
what they raise is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from inspect import isfunction
from time import monotonic
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger, LogLevel

from proxyservice.errors import ProxyServiceError, RefusedError
from proxyservice.net import foreign
from proxyservice.node.connecting import in_time
from proxyservice.node.finality import Kind, kind_of
from proxyservice.node.reminders import Outages

if TYPE_CHECKING:
    from proxyservice.node.lease import NodeLease


class NodeEvents:
    """Told by a `Node`; times are seconds."""

    log = Logger()
    seconds: Callable[[], float] = staticmethod(monotonic)

    @cached_property
    def _outages(self) -> Outages:
        return Outages()

    def connecting(self, server: str) -> None:
        """A main connection to ``server`` (as the user named it) is being opened."""
        self.log.debug("connecting to {server}", server=server)

    def connected(self, server: str, local_address: str) -> None:
        """The main connection is there; ``local_address`` (`host:port`) is its near end."""
        if self._outages.connected():
            self.log.info("connected to {server}", server=server)

    def peer_connected(self, address: str, local_address: str) -> None:
        """There is a connection to a peer's proxy address."""
        self.log.debug("connected to peer {address}", address=address)

    def addressed(self, lease: NodeLease, *, changed: bool) -> None:
        """The lease is granted; ``changed`` when its address is not the one before."""
        self._outages.well(self.seconds())
        if self._outages.is_told or changed:
            self.log.info(
                "{origin} is reached at {address}",
                origin=lease.origin or "this node",
                address=lease.address,
            )

    def port_unavailable(self, lease: NodeLease, error: RefusedError) -> None:
        """The wanted port is unavailable; with `NodeLease.port_or_any` another is asked for."""
        self.log.warn(
            "port {port} is unavailable ({why}); asking for {what}",
            port=lease.wanted_port,
            why=error,
            what="any other" if lease.port_or_any else "it again",
        )

    def lease_refused(self, lease: NodeLease, error: RefusedError) -> None:
        """The server will not grant this lease; it is not asked for again."""
        self.log.error("no address for {origin}: {why}", origin=lease.origin, why=error)

    def lease_delayed(self, lease: NodeLease, error: RefusedError, retry_seconds: float) -> None:
        """The server cannot grant this lease now."""
        self.log.warn(
            "no address for {origin} yet: {why}; asking again in {wait}",
            origin=lease.origin,
            why=error,
            wait=in_time(retry_seconds),
        )

    def released(self, lease: NodeLease) -> None:
        """The address was given back to the server."""
        self.log.info("{address} was released", address=lease.address)

    def not_released(self, lease: NodeLease) -> None:
        """The address was to be given back, and no server could be told: it stays remembered."""
        self.log.warn("{address} was not released: no connection", address=lease.address)

    def disconnected(self, server: str, error: ProxyServiceError, retry_seconds: float) -> None:
        """No connection to ``server``, or no longer; the next attempt is ``retry_seconds`` away.

        Called at each attempt, for ever; the log has the first of a kind, then
        ever fewer, but for a relay that is not the one that was pinned.
        """
        kind = kind_of(error)
        is_other = kind is Kind.PIN
        if self._outages.lost(server, kind.name, self.seconds(), loud=is_other):
            self.log.emit(
                LogLevel.error if is_other else LogLevel.warn,
                "{server}: {why}; trying again in {wait}",
                server=server,
                why=error,
                wait=in_time(retry_seconds),
            )

    def target_down(self, target: str, reason: str, *, visitors: int = 1) -> None:
        """A target (as typed) cannot be dialled; its visitors were closed.

        ``visitors``: how many since this was last said; a flood of them is told
        now and then, not one by one.
        """
        self.log.warn(
            "target {target} is down: {reason} ({visitors} visitors closed)",
            target=target,
            reason=reason,
            visitors=visitors,
        )

    def gave_up(self, error: ProxyServiceError) -> None:
        """No server is left that could serve this node; it does nothing more."""
        self.log.error("giving up: {why}", why=error)


_RECEIVER = "a receiver of a node's events"


class _Guarded(NodeEvents):
    """Tells a receiver, whose exceptions are logged and go no further: one method an event."""

    def __init__(self, receiver: NodeEvents) -> None:
        self.receiver = receiver


def _guard(event: str) -> Callable[..., None]:
    def tell(self: _Guarded, *told: Any, **named: Any) -> None:
        foreign.call(_RECEIVER, None, lambda: getattr(self.receiver, event)(*told, **named))

    return tell


EVENTS = tuple(name for name, what in vars(NodeEvents).items() if isfunction(what))
"""The names of all methods that a receiver has."""

for _event in EVENTS:
    setattr(_Guarded, _event, _guard(_event))


def guarded(receiver: NodeEvents) -> NodeEvents:
    """Who is told instead of this receiver, so that nothing depends on what it does."""
    return receiver if isinstance(receiver, _Guarded) else _Guarded(receiver)


class EndingEvents(NodeEvents):
    """Tells when a node is of no use any more: it gave up, or all its leases were refused.

    ``end(error)`` is called once, after the event itself.
    """

    def __init__(self, leases: int, end: Callable[[ProxyServiceError], None]) -> None:
        self._leases = leases
        self._end = end

    def lease_refused(self, lease: NodeLease, error: RefusedError) -> None:
        """One less."""
        super().lease_refused(lease, error)
        self._lost(1, error)

    def gave_up(self, error: ProxyServiceError) -> None:
        """All of them."""
        super().gave_up(error)
        self._lost(self._leases, error)

    def _lost(self, leases: int, error: ProxyServiceError) -> None:
        if leases:
            self._leases -= leases
            if not self._leases:
                self._end(error)
