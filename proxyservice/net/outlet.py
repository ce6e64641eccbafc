"""The sending side of one main connection, and whose turn it is to use it.

While the outlet is writable its sources write straight through; while it is
full a source that has data waits unread in a `FairQueue`, and turns go to the
one that has sent least. Small frames that are written in one turn of the
reactor leave together at its end: with many visitors active a `send` for each
frame would be half of all work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from proxyservice.net import foreign
from proxyservice.net.lean_loop import turn_end
from proxyservice.net.unsent import UnsentBound
from proxyservice.streams.fairness import FairQueue

SMALL_BYTES = 4 * 1024
"""Frames up to this size are worth a copy to save a `send`: 0.2 us against 5."""

BATCH_BYTES = 64 * 1024
"""What is gathered in one turn at most."""


class Source(Protocol):
    """Something that sends through an outlet."""

    def send_turn(self) -> None:
        """Send one portion now, and wait again if there is more and the outlet is full."""


@implementer(IPushProducer)
class Outlet:
    """Registered as the transport's producer: paused while anything is queued.

    The kernel's own buffer keeps the line busy; a queue above it would only be
    copied and add delay. ``on_full`` is called when bytes begin to wait and
    whenever there are more, ``on_drain`` when all have left, before turns are given.
    """

    def __init__(
        self, transport: Any, on_full: Callable[[], None], on_drain: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._on_full = on_full
        self._on_drain = on_drain
        self._queue: FairQueue[Source] = FairQueue()
        self._batch = bytearray()
        self._unsent = UnsentBound(transport)
        self.writable = True
        transport.high_bytes = 0
        transport.registerProducer(self, True)

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for the peer."""
        return int(self._transport.queued_bytes)

    @property
    def gathered_bytes(self) -> int:
        """Bytes of this turn that are sent at its end."""
        return len(self._batch)

    @property
    def sent_bytes(self) -> int:
        """Bytes that the kernel took, in all: standing still means a dead or stuck peer."""
        return int(self._transport.sent_bytes)

    @property
    def contended(self) -> bool:
        """Sources wait for a turn."""
        return bool(self._queue)

    def write(self, data: bytes | memoryview) -> None:
        """Send, small frames at the end of the turn; the rest of a large one is queued."""
        if turn_end.active and len(data) <= SMALL_BYTES and self.writable:
            if not self._batch:
                turn_end.defer(self.flush)
            self._batch += data
            if len(self._batch) > BATCH_BYTES:
                self.flush()
            return
        if self._batch:
            self.flush()
        self._send(data)

    def flush(self) -> None:
        """Send what was gathered."""
        if self._batch:
            batch, self._batch = self._batch, bytearray()
            self._send(batch)

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        was_full = not self.writable
        self._transport.write(data)
        if was_full:
            self._on_full()

    def wait(self, source: Source) -> None:
        """The source has data and the outlet is full: it will get a turn."""
        self._queue.wait(source)

    def charge(self, source: Source, n_bytes: int) -> None:
        """The source has sent so many bytes; it counts while others wait."""
        if not self.writable or self._queue:
            self._queue.charge(source, n_bytes)

    def forget(self, source: Source) -> None:
        """The source is gone."""
        self._queue.forget(source)

    def pauseProducing(self) -> None:
        """Twisted's word for: bytes are queued."""
        if self.writable:
            self.writable = False
            self._on_full()

    def resumeProducing(self) -> None:
        """Twisted's word for: the queue is empty. Give turns until it is not."""
        self.writable = True
        self._unsent.sent(self.sent_bytes)
        self._on_drain()
        while self.writable and (source := self._queue.next()) is not None:
            try:
                source.send_turn()
            except BaseException as error:
                foreign.raised("a source of a main connection", None, error)

    def stopProducing(self) -> None:
        """The transport is closing."""
        self.writable = False

    def close(self) -> None:
        """Nothing will be written any more; what was gathered leaves."""
        self.flush()
        self.writable = False
        self._queue = FairQueue()
