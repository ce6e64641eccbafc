"""Where visitors wait while the node of a held lease is away.

They are accepted and not read: what they say stays in the kernel, and that is
little. Waiting is bounded in number here, and in time by the hold: as soon as
nobody listens on a port any more, whoever waits at it is turned away with RST.
When there is no place left, one of the source that has most gives its own up to a
source that has fewer. Who may come at all is `visitor_gate.py`'s to say.
What a held lease is, and for how long, is the registry's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator

from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from proxyservice.leases.registry import PortBinder
from proxyservice.net.eager import EagerProtocol
from proxyservice.net.hang_ups import hung_up
from proxyservice.net.receive_buffer import ReceiveBuffer
from proxyservice.server.access import Caller
from proxyservice.server.memory import Memory
from proxyservice.server.relay_visitor import Begun

LOOK_AT_ALL_EACH = 16
"""With the whole room full, whether somebody has left it is asked for one arrival in so many:
it takes 0.1 ms."""


class WaitingVisitor(EagerProtocol):
    """A visitor that nobody serves yet; ``gone`` is called once if its socket closes here.

    ``mode`` is what the lease carries, None where that is not known. Of a visitor that was
    served when its node went away ``begun`` has the frame that was not complete, whose bytes
    count in ``memory``. ``source`` is what it counts for, None if it is trusted; ``left`` is
    called once, when it waits no more.
    """

    def __init__(
        self,
        host: str,
        port: int,
        proxy_port: int,
        source: str | None,
        mode: int | None,
        gone: Callable[[WaitingVisitor], None],
        left: Callable[[WaitingVisitor], None],
        begun: Begun | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.host = host
        """The visitor's own address, canonical."""
        self.port = port
        self.proxy_port = proxy_port
        """Where it waits."""
        self.memory_source = source
        self.source: Hashable = self if source is None else source
        """What it counts for; one that is trusted stands for itself."""
        self.left = left
        self.mode = mode
        self.begun = begun
        self._gone = gone
        self._memory = memory
        self._receive_buffer = ReceiveBuffer()

    def connectionMade(self) -> None:
        """The visitor is there, and is not read."""
        self.transport.pauseProducing()
        self._receive_buffer.shrink(self.transport)
        if self.begun is not None and self._memory is not None:
            self._memory.hold(self, self.begun.memory_bytes)

    def receiveRoom(self) -> int:
        """Nothing: not a byte is taken that could not be handed on."""
        return 0

    def hand_to(self, protocol: Protocol) -> None:
        """From now on the visitor is this protocol's, as if it had just arrived."""
        transport = self.transport
        self._forget_memory()
        self._receive_buffer.restore(transport)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        transport.resumeProducing()

    def turn_away(self) -> None:
        """Nobody came for it."""
        self.transport.abortConnection()

    def memory_short(self) -> None:
        """Its unfinished frame is the largest of all."""
        self.turn_away()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The socket is closed, for whatever reason."""
        self._forget_memory()
        if self.begun is not None:
            self.begun.scanner.close()
        self._gone(self)

    def _forget_memory(self) -> None:
        if self._memory is not None:
            self._memory.hold(self, 0)


def _nobody_counts(visitor: WaitingVisitor) -> None:
    """Who it is matters to nobody but the room."""


class WaitingRoom:
    """All visitors of one service that wait, by the proxy port that they came to."""

    def __init__(self, most: int, most_per_port: int) -> None:
        self._most = most
        self._most_per_port = most_per_port
        self._waiting: dict[int, dict[WaitingVisitor, None]] = {}  # in the order of arrival
        self._modes: dict[int, int] = {}  # of held leases, by port
        self._closed = False
        self._refused = 0  # because the room was full, not the port
        self.callers: dict[int, Caller] = {}
        """What the node has shown that is expected at a port, while that is bound."""
        self.count = 0
        """How many wait, in all."""

    def __iter__(self) -> Iterator[WaitingVisitor]:
        """Everybody, as it is now."""
        return iter([one for here in self._waiting.values() for one in here])

    def at(self, port: int) -> int:
        """How many wait at this port."""
        return len(self._waiting.get(port, ()))

    def hold(self, port: int, mode: int) -> None:
        """The lease of this port is held; whoever comes now waits for a node in this mode."""
        self._modes[port] = mode

    def admit(
        self,
        port: int,
        visitor_host: str,
        visitor_port: int,
        mode: int | None = None,
        source: str | None = None,
        left: Callable[[WaitingVisitor], None] = _nobody_counts,
    ) -> WaitingVisitor | None:
        """The protocol of a visitor that may wait at this port; None turns it away."""
        mode = self._modes.get(port) if mode is None else mode
        visitor = WaitingVisitor(visitor_host, visitor_port, port, source, mode, self._left, left)
        if self.has_room(port) or self._make_room(port) or self._make_place(port, visitor):
            return self._enter(visitor)
        return None

    def keep(
        self,
        port: int,
        visitor_host: str,
        visitor_port: int,
        mode: int,
        begun: Begun,
        memory: Memory,
        source: str | None = None,
        left: Callable[[WaitingVisitor], None] = _nobody_counts,
    ) -> WaitingVisitor:
        """The same for a visitor that was served until now, when there is room for it."""
        return self._enter(
            WaitingVisitor(
                *(visitor_host, visitor_port, port, source, mode, self._left, left),
                begun,
                memory,
            )
        )

    def has_room(self, port: int) -> bool:
        """One more may wait at this port."""
        here = len(self._waiting.get(port, ()))
        return not self._closed and self.count < self._most and here < self._most_per_port

    def _make_room(self, port: int) -> bool:
        """Of those that wait some may have left: nobody reads them, so it was not noticed."""
        if self._closed:
            return False
        ports: Iterable[int] = (port,)
        if self.count >= self._most:
            self._refused += 1
            if self._refused % LOOK_AT_ALL_EACH != 1:
                return False
            ports = list(self._waiting)
        waiting = [one for at in ports for one in self._waiting.get(at, ())]
        reset, ended = hung_up((one, one.transport) for one in waiting)
        # Who has only ended its side may still want what it asked for: it goes if nobody else did.
        for visitor in reset or ended[:1]:
            self._left(visitor)
            visitor.turn_away()
        return self.has_room(port)

    def _make_place(self, port: int, newcomer: WaitingVisitor) -> bool:
        """The latest of the source with most places goes, if it has more than the newcomer's."""
        if self._closed:
            return False
        full_here = self.at(port) >= self._most_per_port
        waiting = list(self._waiting[port] if full_here else self)
        places = Counter(one.source for one in waiting)
        ((busiest, most),) = places.most_common(1)
        if most <= places[newcomer.source] + 1:
            return False
        goes = next(one for one in reversed(waiting) if one.source == busiest)
        self._left(goes)
        goes.turn_away()
        return self.has_room(port)

    def _enter(self, visitor: WaitingVisitor) -> WaitingVisitor:
        self._waiting.setdefault(visitor.proxy_port, {})[visitor] = None
        self.count += 1
        return visitor

    def _left(self, visitor: WaitingVisitor) -> None:
        port = visitor.proxy_port
        here = self._waiting.get(port, {})
        if visitor in here:
            del here[visitor]
            self.count -= 1
            if not here:
                del self._waiting[port]
            visitor.left(visitor)

    def take(self, port: int) -> list[WaitingVisitor]:
        """Everybody who waits at this port, the first one first; they wait here no more."""
        self._modes.pop(port, None)
        taken = list(self._waiting.get(port, ()))
        for visitor in taken:
            self._left(visitor)
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
        self._room.callers.pop(port, None)
