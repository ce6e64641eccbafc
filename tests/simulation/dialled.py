"""Names with several addresses, and dialling them: what stands in for resolver and kernel."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.python.failure import Failure

from proxyservice.errors import Distrust
from proxyservice.net.connect import CONNECT_SECONDS, DialFailure
from proxyservice.net.eager import EagerSocket
from proxyservice.net.race import STAGGER_SECONDS
from proxyservice.node.certificate_faults import WrongCertificateError
from tests.simulation.network import Socket
from tests.simulation.reactor import Reactor

if TYPE_CHECKING:
    from tests.simulation.scripted_relay import ScriptedRelay

SOURCE = "203.0.113.7"


class Fate(Enum):
    """Of who dials an address."""

    ANSWERS = auto()
    LATE = auto()
    REFUSES = auto()
    BLACK_HOLE = auto()


@dataclass(frozen=True, slots=True)
class Place:
    """One address of a relay."""

    text: str
    fate: Fate
    relay: ScriptedRelay


def places_of(relay: ScriptedRelay, number: int, pick: Random) -> list[Place]:
    """Up to two addresses of each family, of which one at least answers."""
    texts = [f"2001:db8::{number}:{n}" for n in range(1, pick.randrange(1, 4))]
    texts += [f"192.0.2.{10 * number + n}" for n in range(1, pick.randrange(1, 4))]
    texts = texts or [f"192.0.2.{10 * number}"]
    fates = [pick.choice(list(Fate)) for _ in texts]
    fates[pick.randrange(len(fates))] = Fate.ANSWERS
    return [Place(text, fate, relay) for text, fate in zip(texts, fates, strict=True)]


class Lookups:
    """Stands for `NameLookups`: both families apart, each after a while of its own."""

    def __init__(self, reactor: Reactor, names: dict[str, list[Place]], pick: Random) -> None:
        self._reactor, self._names, self._pick = reactor, names, pick

    def look_up(self, host: str, family: int, found: Any) -> Callable[[], None]:
        version6 = family == socket.AF_INET6
        addresses = [one.text for one in self._names[host] if (":" in one.text) is version6]
        reason = "" if addresses else "there is no such name"
        seconds = self._pick.choice((0.0, 0.01, 0.2, 2.0))
        call = self._reactor.callLater(seconds, found, addresses, reason)
        return lambda: call.cancel() if call.active() else None


class Dialled:
    """Stands for `Dial`: one attempt at one address."""

    def __init__(
        self,
        place: Place,
        reactor: Reactor,
        where: tuple[str, int],
        build: Callable[[], Any],
        failed: Callable[[DialFailure], None],
        connected: Callable[[], None],
    ) -> None:
        self._place, self._reactor, self._where = place, reactor, where
        self._build, self._failed, self._connected = build, failed, connected
        self._over = False
        self._timer: Any = None

    def start(self) -> None:
        fate, later = self._place.fate, self._reactor.callLater
        if fate is Fate.REFUSES:
            self._timer = later(0.02, self._miss, "Connection refused")
        elif fate is Fate.BLACK_HOLE:
            self._timer = later(CONNECT_SECONDS, self._miss, "Connection timed out")
        elif fate is Fate.LATE:
            self._timer = later(3 * STAGGER_SECONDS, self._dial)
        else:
            self._dial()

    def cancel(self) -> None:
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _miss(self, reason: str) -> None:
        if not self._over:
            self.cancel()
            self._failed(DialFailure(reason))

    def _dial(self) -> None:
        self._reactor.network.connect(self._place.relay.port, SOURCE, self._answered)

    def _answered(self, opened: Socket | None) -> None:
        if self._over:
            if opened is not None:
                opened.close()
            return
        if opened is None:
            self._miss("Connection refused")
            return
        self._over = True
        protocol = self._build()
        transport = EagerSocket(opened, protocol, self._where, self._reactor)  # type: ignore[arg-type]
        protocol.makeConnection(transport)
        self._connected()
        if self._place.relay.seems_too_new:
            self._reactor.from_thread(0.1, self._distrust, transport)

    @staticmethod
    def _distrust(transport: EagerSocket) -> None:
        """What the handshake of TLS ends with, where the clock is behind."""
        if transport.connected:
            text = "is not trusted: certificate is not yet valid"
            transport.connectionLost(Failure(WrongCertificateError(text, Distrust.DATES)))
