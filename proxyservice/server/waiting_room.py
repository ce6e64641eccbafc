"""Where visitors wait while the node of a held lease is away.

They are accepted and not read: what they say stays in the kernel. Waiting is
bounded in number here, and in time by the hold: as soon as nobody listens on a
port any more, whoever waits at it is turned away with RST. What a held lease
is, and for how long, is the registry's.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from proxyservice.leases.registry import PortBinder
from proxyservice.net.eager import EagerProtocol


class WaitingVisitor(EagerProtocol):
    """A visitor that nobody serves yet; ``gone`` is called once if its socket closes here."""

    def __init__(self, host: str, port: int, gone: Callable[[WaitingVisitor], None]) -> None:
        self.host = host
        """The visitor's own address, canonical."""
        self.port = port
        self._gone = gone

    def connectionMade(self) -> None:
        """The visitor is there, and is not read."""
        self.transport.pauseProducing()

    def receiveRoom(self) -> int:
        """Nothing: not a byte is taken that could not be handed on."""
        return 0

    def hand_to(self, protocol: Protocol) -> None:
        """From now on the visitor is this protocol's, as if it had just arrived."""
        transport = self.transport
        transport.protocol = protocol
        protocol.makeConnection(transport)
        transport.resumeProducing()

    def turn_away(self) -> None:
        """Nobody came for it."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The socket is closed, for whatever reason."""
        self._gone(self)


class WaitingRoom:
    """All visitors of one service that wait, by the proxy port that they came to."""

    def __init__(self, most: int, most_per_port: int) -> None:
        self._most = most
        self._most_per_port = most_per_port
        self._waiting: dict[int, dict[WaitingVisitor, None]] = {}  # in the order of arrival
        self._closed = False
        self.count = 0
        """How many wait, in all."""

    def admit(self, port: int, visitor_host: str, visitor_port: int) -> WaitingVisitor | None:
        """The protocol of a visitor that may wait at this port; None turns it away."""
        here = self._waiting.setdefault(port, {})
        if self._closed or self.count >= self._most or len(here) >= self._most_per_port:
            if not here:
                del self._waiting[port]
            return None
        visitor = WaitingVisitor(visitor_host, visitor_port, lambda one: self._left(port, one))
        here[visitor] = None
        self.count += 1
        return visitor

    def _left(self, port: int, visitor: WaitingVisitor) -> None:
        here = self._waiting.get(port, {})
        if visitor in here:
            del here[visitor]
            self.count -= 1
            if not here:
                del self._waiting[port]

    def take(self, port: int) -> list[WaitingVisitor]:
        """Everybody who waits at this port, the first one first; they wait here no more."""
        taken = list(self._waiting.pop(port, ()))
        self.count -= len(taken)
        return taken

    def turn_away(self, port: int) -> int:
        """End the wait at this port; how many it were."""
        visitors = self.take(port)
        for visitor in visitors:
            visitor.turn_away()
        return len(visitors)

    def close(self) -> None:
        """The service stops: nobody waits, from now on."""
        self._closed = True
        for port in list(self._waiting):
            self.turn_away(port)


class WaitedPorts:
    """The registry's `PortBinder` in front of the ports: who waits where nobody listens, goes.

    A port is bound if and only if its lease is live or held, so this is the end of every wait
    that no node ended: the hold is over, the lease was released, revoked, or has moved.
    """

    def __init__(self, ports: PortBinder, room: WaitingRoom) -> None:
        self._ports = ports
        self._room = room

    def bind(self, port: int) -> None:
        """Listen; already bound is fine. Raises OSError."""
        self._ports.bind(port)

    def unbind(self, port: int) -> None:
        """Stop listening; not bound is fine."""
        self._ports.unbind(port)
        self._room.turn_away(port)
