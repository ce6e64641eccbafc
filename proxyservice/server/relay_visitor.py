"""One visitor of a lease in message mode: its good frames go to the node, nothing comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from twisted.python.failure import Failure

from proxyservice.errors import FrameError
from proxyservice.net.deadlines import Deadlines
from proxyservice.net.eager import EagerProtocol
from proxyservice.net.outlet import Outlet
from proxyservice.net.turns import Share, Turns
from proxyservice.server.limits import ServiceLimits
from proxyservice.server.memory import Memory
from proxyservice.wire.framing import HEADER_BYTES
from proxyservice.wire.relay_check import RelayScanner

LARGE_READ_BYTES = 4 * 1024
"""From here on a read counts against the turn by its bytes: usual frames cost less each."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What of a visitor's frame was in hand when its node went away."""

    scanner: RelayScanner
    memory_bytes: int


class RelayVisitor(EagerProtocol):
    """Reads only while the node's connection takes data; a bad frame ends this visitor alone."""

    def __init__(
        self,
        scanner: RelayScanner,
        outlet: Outlet,
        deadlines: Deadlines,
        now: Callable[[], float],
        limits: ServiceLimits,
        memory: Memory,
        turns: Turns,
        share: Share,
        memory_source: str | None,
        refused: Callable[[str], None],
        gone: Callable[[RelayVisitor], None],
        host: str,
        port: int,
    ) -> None:
        self.host = host
        """The visitor's own address, canonical."""
        self.port = port
        self._scanner = scanner
        self._outlet = outlet
        self._deadlines = deadlines
        self._now = now
        self._limits = limits
        self._memory = memory
        self._turns = turns
        self._share = share  # of each turn; the scanner takes from it
        self.memory_source = memory_source
        self._counted_bytes = 0
        self._refused = refused
        self._gone = gone
        self._began_at: float | None = None  # when the unfinished frame began
        self._watched = False  # a deadline is set
        self._over = False
        self._finishing = False  # the frame that is under way is the last
        self._waiting = False  # for a turn of the outlet or the reactor, unread meanwhile
        self._wants_turn = False  # of the reactor

    def connectionMade(self) -> None:
        """The visitor is there; what it began with a former connection of the node goes on."""
        if self._scanner.buffered_bytes:
            self._count_memory()
            self._watch_the_clock(begun_anew=True)
        if self._scanner.waits:
            self._wait_for_turn()

    def receiveRoom(self) -> int | memoryview:
        """Nothing is read while the node's connection is full: what waits stays in the kernel.

        Nor while frames that were read wait to be checked.
        """
        if self._scanner.waits:
            self._wait_for_turn()
            return 0
        if self._outlet.writable:
            room = self._scanner.room()
            return room[: self._missing_bytes()] if self._finishing else room
        self._wait()
        return 0

    def _missing_bytes(self) -> int:
        """Of the frame that is under way, or of its header."""
        had_bytes = self._scanner.buffered_bytes
        return self._scanner.unfinished_frame_bytes - had_bytes or HEADER_BYTES - had_bytes

    def bufferReceived(self, view: memoryview) -> None:
        """Bytes of the visitor are in the scanner's room."""
        self._relay(self._scanner.received(len(view)), len(view))

    def dataReceived(self, data: bytes) -> None:
        """The same over a transport that does not lend its buffer."""
        self._relay(self._scanner.feed(data), len(data))

    def _relay(self, runs: Iterator[memoryview], received_bytes: int) -> None:
        if self._over:
            return
        relayed = False
        try:
            for run in runs:
                if not self._over:  # else the node has gone meanwhile, and these frames with it
                    self._outlet.write(run)
                    relayed = True
        except FrameError as error:
            self._refused(str(error))
            self._end()
            return
        if self._over:
            return
        self._outlet.charge(self, received_bytes)
        self._count_memory()
        self._watch_the_clock(begun_anew=relayed)
        if self._finishing and not self._scanner.buffered_bytes:
            self._end_in_order()
        elif not self._outlet.writable:
            self._wait()
        elif self._scanner.waits or not self._within_turn(received_bytes):
            self._wait_for_turn()

    def _within_turn(self, received_bytes: int) -> bool:
        """Whether this turn has room for more after so many bytes of usual frames."""
        return received_bytes < LARGE_READ_BYTES or self._share.take(received_bytes)

    def _wait_for_turn(self) -> None:
        """Others are served before more of this visitor is looked at."""
        self._wants_turn = True
        self._pause()
        self._turns.wait(self, self._share)

    def work_turn(self) -> None:
        """A turn of the reactor has room for this visitor."""
        self._wants_turn = False
        self._go_on()

    def work_failed(self) -> None:
        """Our own mistake; the visitor goes, as it does when a read fails."""
        self._end()

    def _count_memory(self) -> None:
        n_bytes = self._scanner.memory_bytes
        if n_bytes != self._counted_bytes:
            self._counted_bytes = n_bytes
            self._memory.hold(self, n_bytes)

    def memory_short(self) -> None:
        """Its unfinished frame is the largest of all."""
        self._refused("memory is short, and its frame takes most of it")
        self._end()

    def _wait(self) -> None:
        self._pause()
        self._outlet.wait(self)

    def _pause(self) -> None:
        if not self._waiting:
            self._waiting = True
            self.transport.pauseProducing()

    def send_turn(self) -> None:
        """The outlet has room; whoever waits for a turn of the reactor has that first."""
        if not self._wants_turn:
            self._go_on()

    def _go_on(self) -> None:
        """Check what waits, else read on; then by the reactor, if nothing is in the way."""
        if self._over:
            return
        if self._began_at is not None:
            self._began_at = self._now()  # what it waited for us is not its time
        if not self._outlet.writable:
            self._wait()
            return
        if self._scanner.waits:
            self._relay(self._scanner.go_on(), 0)
        else:
            self._read_now()
        if self._outlet.writable and not self._over and not self._wants_turn:
            self._waiting = False
            self.transport.resumeProducing()

    def _read_now(self) -> None:
        """A transport that cannot be asked has handed over what it has."""
        read_now = getattr(self.transport, "readNow", None)
        if read_now is not None:
            read_now()

    def _watch_the_clock(self, *, begun_anew: bool) -> None:
        """A frame must be complete in time, however slowly its bytes come."""
        if not self._scanner.buffered_bytes:
            self._began_at = None
        elif self._began_at is None or begun_anew:
            self._began_at = self._now()
            if not self._watched:
                self._watched = True
                self._deadlines.set(self, self._began_at + self._limits.frame_base_seconds)

    def deadline_passed(self, now: float) -> float | None:
        """The tick: end the visitor if its frame is late. Time under backpressure counts not."""
        if self._began_at is None or self._over:
            self._watched = False
            return None
        if not self._outlet.writable or self._wants_turn:
            self._began_at = now
        seconds = self._limits.frame_base_seconds
        seconds += self._scanner.unfinished_frame_bytes / self._limits.frame_bytes_per_second
        if now < self._began_at + seconds:
            return self._began_at + seconds
        self._refused("a frame that is not complete in time")
        self._end()
        return None

    def finish(self) -> None:
        """The service is about to stop: end after the frame that is under way.

        What the kernel has is read first.
        """
        self._read_now()
        self._finishing = True
        if not self._over and not self._scanner.buffered_bytes:
            self._end_in_order()

    def _end_in_order(self) -> None:
        self._over = True
        self.transport.loseConnection()

    def lease_gone(self) -> None:
        """The lease or its holder is gone."""
        self._end()

    @property
    def may_wait(self) -> bool:
        """It can be given to another connection of its node."""
        return not self._over and not self._finishing

    def leave(self) -> Begun:
        """Somebody else has the transport from now on, and what of a frame was begun."""
        begun = Begun(self._scanner, self._counted_bytes)
        self._forgotten()
        return begun

    def _end(self) -> None:
        self._over = True
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The visitor is gone; an unfinished frame goes with it."""
        self._scanner.close()
        self._forgotten()

    def _forgotten(self) -> None:
        """Nobody hears of it any more."""
        self._over = True
        self._memory.hold(self, 0)
        self._outlet.forget(self)
        self._turns.forget(self, self._share)
        self._deadlines.forget(self)
        self._gone(self)
