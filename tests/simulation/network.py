"""A kernel and a network in memory: sockets that block, lines that delay, split, stall and fail.

Sockets have the methods that Twisted and the service call on real ones. Every connection has
chances of its own, so that what happens on one line does not change what happens on another.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.timeline import Timeline

KERNEL_BYTES = 32 * 1024
"""What one direction of a connection holds: little, so that queues fill."""

DEAD_SECONDS = 60.0
"""Kernels that hear nothing from the other end give up after this."""

HOST = "198.51.100.1"
LINGER_RESET = struct.pack("ii", 1, 0)
FIN, RST = "FIN", "RST"


def broken(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Socket:
    """One end of a connection; `wake` is called when it may be read or written."""

    def __init__(self, network: Network, line: Line, here: Any, there: Any) -> None:
        self.network, self.line = network, line
        self.number = network.numbered(self)
        self.here, self.there = here, there
        self.other: Socket
        self.received = bytearray()
        self.in_flight = 0  # bytes on their way to the other end: not acknowledged
        self.ended = self.shut = self.closed = self.lingers = False
        self.error = 0
        self.wake: Callable[[], None] = lambda: None

    @property
    def readable(self) -> bool:
        return bool(self.received or self.ended or self.error)

    @property
    def room(self) -> int:
        return KERNEL_BYTES - len(self.other.received) - self.in_flight

    @property
    def writable(self) -> bool:
        return bool(self.error) or self.room > 0

    # --------------------------------------------------- what a program calls

    def fileno(self) -> int:
        return self.number

    def setblocking(self, blocks: bool) -> None: ...

    def getsockname(self) -> Any:
        return self.here

    def getpeername(self) -> Any:
        return self.there

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self.lingers = value == LINGER_RESET

    def send(self, data: bytes | bytearray | memoryview) -> int:
        if self.error:
            raise broken(self.error)
        if self.shut or self.closed:
            raise broken(errno.EPIPE)
        room = self.room
        if room <= 0:
            raise broken(errno.EAGAIN)
        piece = bytes(data[:room])
        self.in_flight += len(piece)
        self.line.carry(self, piece)
        return len(piece)

    def recv_into(self, landing: memoryview) -> int:
        if self.received:
            size = min(len(landing), len(self.received))
            landing[:size] = self.received[:size]
            del self.received[:size]
            self.other.wake()
            return size
        if self.error:
            raise broken(self.error)
        if self.ended:
            return 0
        raise broken(errno.EAGAIN)

    def recv(self, most: int) -> bytes:
        landing = bytearray(most)
        return bytes(landing[: self.recv_into(memoryview(landing))])

    def shutdown(self, how: int) -> None:
        if not self.shut and not self.error:
            self.shut = True
            self.line.carry(self, FIN)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.network.forget(self.number)
        if self.error:
            return
        if self.lingers or self.received:
            self.line.carry(self, RST)
        elif not self.shut:
            self.line.carry(self, FIN)

    def vanish(self) -> None:
        """The machine is gone. Who sends to it later, when it is back, is told; who does not
        finds out by keepalives of its kernel."""
        self.network.after(DEAD_SECONDS, self.other.fail, errno.ETIMEDOUT)
        self.closed = True
        self.network.forget(self.number)

    # ---------------------------------------------------- what the line brings

    def deliver(self, what: bytes | str) -> None:
        if isinstance(what, bytes):
            self.other.in_flight -= len(what)
        if self.closed:
            if isinstance(what, bytes):
                self.line.carry(self, RST)
            return
        if self.error:
            return
        if isinstance(what, bytes):
            self.received += what
        elif what is FIN:
            self.ended = True
        else:
            self.error = errno.ECONNRESET
        self.wake()

    def fail(self, number: int) -> None:
        """The kernel gives the connection up."""
        if not self.closed and not self.error:
            self.error = number
            self.wake()


class Line:
    """The way between the two ends of one connection."""

    def __init__(self, timeline: Timeline, chances: Random, splits: float, stalls: float) -> None:
        self._timeline = timeline
        self._random = chances
        self._splits, self._stalls = splits, stalls
        self._delay = chances.choice((0.0005, 0.02, 0.1))
        self._free_at: dict[Socket, float] = {}
        self.dark = False

    def carry(self, sender: Socket, what: bytes | str | Callable[[], None]) -> None:
        """Bring it to the other end, behind what was sent before; RST waits for nobody."""
        if self.dark:
            return
        pick = self._random
        now, free_at = self._timeline.now, self._free_at.get(sender, 0.0)
        pieces = [what]
        if isinstance(what, bytes) and len(what) > 1 and pick.random() < self._splits:
            cut = pick.randrange(1, len(what))
            pieces = [what[:cut], what[cut:]]
        for piece in pieces:
            delay = self._delay * (0.5 + pick.random())
            if pick.random() < self._stalls:
                delay += pick.choice((1.0, 4.0, 15.0))
            at = now + delay
            if piece is not RST:
                at = free_at = max(free_at, at)
            bring = (piece,) if callable(piece) else (sender.other.deliver, piece)
            self._timeline.after(at - now, *bring)
        self._free_at[sender] = free_at


class Listener:
    """A listening socket and those who wait at it."""

    def __init__(self, network: Network, port: int) -> None:
        self.network, self.port = network, port
        self.number = network.numbered(self)
        self.waiting: deque[Socket] = deque()
        self.wake: Callable[[], None] = lambda: None
        self.writable = False

    @property
    def readable(self) -> bool:
        return bool(self.waiting)

    def fileno(self) -> int:
        return self.number

    def listen(self, backlog: int) -> None: ...

    def getsockname(self) -> Any:
        return HOST, self.port

    def accept(self) -> tuple[Socket, Any]:
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "nobody waits")
        accepted = self.waiting.popleft()
        return accepted, accepted.there

    def close(self) -> None:
        self.vanish()
        for waiting in self.waiting:
            waiting.lingers = True
            waiting.close()

    def vanish(self) -> None:
        self.network.listeners.pop(self.port, None)
        self.network.listenings += 1
        self.network.forget(self.number)


class Network:
    """The machine of the service, and who can reach it."""

    def __init__(self, timeline: Timeline, seed: int, splits: float, stalls: float) -> None:
        self._timeline, self._seed = timeline, seed
        self.after = timeline.after
        self._splits, self._stalls = splits, stalls
        self._lines = self._numbers = 0
        self.listenings = 0
        """Changes with each socket that begins or ceases to listen."""
        self.listeners: dict[int, Listener] = {}
        self.taken: set[int] = set()
        """Ports that another program has."""
        self.sockets: dict[int, Socket | Listener] = {}
        """Open ones, by number; both ends are in here."""

    def numbered(self, made: Socket | Listener) -> int:
        self._numbers += 1
        self.sockets[self._numbers] = made
        return self._numbers

    def forget(self, number: int) -> None:
        self.sockets.pop(number, None)

    def listen(self, port: int) -> Listener:
        if port in self.taken or port in self.listeners:
            raise broken(errno.EADDRINUSE)
        self.listenings += 1
        self.listeners[port] = Listener(self, port)
        return self.listeners[port]

    def connect(self, port: int, source: str, answered: Callable[[Socket | None], None]) -> Line:
        """Somebody outside dials; `answered` hears of its end, or that nobody listens."""
        self._lines += 1
        number = self._lines
        chances = Random(self._seed * 1_000_003 + number)
        line = Line(self._timeline, chances, self._splits, self._stalls)
        there = (source, 1024 + number)
        self._timeline.after(
            0.001 + chances.random() / 10, self._arrived, line, port, there, answered
        )
        return line

    def give_up(self, line: Line, number: int) -> None:
        """Both kernels do."""
        for opened in list(self.sockets.values()):
            if isinstance(opened, Socket) and opened.line is line:
                opened.fail(number)

    def _arrived(
        self, line: Line, port: int, there: Any, answered: Callable[[Socket | None], None]
    ) -> None:
        listener = self.listeners.get(port)
        if listener is None or line.dark:
            self._timeline.after(0.05, answered, None)
            return
        client, server = (
            Socket(self, line, there, (HOST, port)),
            Socket(self, line, (HOST, port), there),
        )
        client.other, server.other = server, client
        line.carry(server, lambda: answered(client))
        listener.waiting.append(server)
        listener.wake()
