"""The sending side of one main connection, and whose turn it is to use it.

While the outlet is writable its sources write straight through; while it is
full a source that has data waits unread in a `FairQueue`, and turns go to the
one that has sent least.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from proxyservice.streams.fairness import FairQueue


class Source(Protocol):
    """Something that sends through an outlet."""

    def send_turn(self) -> None:
        """Send one portion now, and wait again if there is more and the outlet is full."""


@implementer(IPushProducer)
class Outlet:
    """Registered as the transport's producer: paused while anything is queued.

    The kernel's own buffer keeps the line busy; a queue above it would only be
    copied and add delay. ``on_full`` is called when bytes begin to wait,
    ``on_drain`` when all have left, before turns are given.
    """

    def __init__(
        self, transport: Any, on_full: Callable[[], None], on_drain: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._on_full = on_full
        self._on_drain = on_drain
        self._queue: FairQueue[Source] = FairQueue()
        self.writable = True
        transport.high_bytes = 0
        transport.registerProducer(self, True)

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for the peer."""
        return int(self._transport.queued_bytes)

    @property
    def sent_bytes(self) -> int:
        """Bytes that the kernel took, in all: standing still means a dead or stuck peer."""
        return int(self._transport.sent_bytes)

    @property
    def contended(self) -> bool:
        """Sources wait for a turn."""
        return bool(self._queue)

    def write(self, data: bytes | memoryview) -> None:
        """Send; what the kernel does not take is copied and queued."""
        self._transport.write(data)

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
        self._on_drain()
        while self.writable and (source := self._queue.next()) is not None:
            source.send_turn()

    def stopProducing(self) -> None:
        """The transport is closing."""
        self.writable = False

    def close(self) -> None:
        """Nothing will be sent any more."""
        self.writable = False
        self._queue = FairQueue()
