"""Outgoing TCP connections with eager transports, as an endpoint."""

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.errors import UnreachableError
from proxyservice.net.names import NameLookups, lookups_of
from proxyservice.net.race import NO_ANSWER, Race

_ADVICE = {
    os.strerror(errno.ECONNREFUSED): "nothing listens there",
    os.strerror(errno.ETIMEDOUT): "is there a firewall in between?",
    NO_ANSWER: "is there a firewall in between?",
}


@implementer(IStreamClientEndpoint)
class EagerTCPEndpoint:
    """host:port; a name is looked up at each attempt, and all of its addresses are tried.

    Fails with UnreachableError, in words for people. ``lookups``: by default
    those that everybody in this reactor shares.
    """

    def __init__(
        self, reactor: Any, host: str, port: int, lookups: NameLookups | None = None
    ) -> None:
        self._reactor, self._host, self._port = reactor, host, port
        self._lookups = lookups

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Fire with the protocol once it is connected."""
        attempt = _Attempt(factory)
        attempt.race = Race(
            self._reactor,
            self._host,
            self._port,
            attempt.build,
            attempt.failed,
            attempt.made,
            self._lookups or lookups_of(self._reactor),
        )
        attempt.race.start()
        return attempt.connected


class _Attempt:
    """One connection attempt as a Deferred."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self._protocol: Any = None
        self._wrong: Failure | None = None
        self.connected: Deferred[Any] = Deferred(lambda _: self.race.cancel())
        self.race: Race

    def build(self, host: str) -> Protocol:
        """The factory's protocol; whatever is wrong with it is the caller's to hear."""
        try:
            address = (IPv6Address if ":" in host else IPv4Address)("TCP", host, 0)
            self._protocol = self._factory.buildProtocol(address)
        except Exception:
            self._wrong = Failure()
        if self._protocol is None:
            self._wrong = self._wrong or Failure(NoProtocol())
            return _Unwanted()
        protocol: Protocol = self._protocol
        return protocol

    def made(self) -> None:
        """It is connected, and the protocol has been told."""
        self.connected.callback(self._wrong or self._protocol)

    def failed(self, reason: str) -> None:
        """No address answers."""
        self.connected.errback(Failure(UnreachableError(_with_advice(reason))))


class _Unwanted(Protocol):
    """A connection that the factory has no protocol for."""

    def connectionMade(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]  # it has one now


def _with_advice(reason: str) -> str:
    advice = _ADVICE.get(reason)
    return f"{reason}: {advice}" if advice else reason
