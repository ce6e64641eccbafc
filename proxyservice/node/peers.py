"""Messages to other nodes: one connection to each peer's proxy address, reused.

A connection is dialled when something is to be sent, kept while it is used, and
closed when idle. What goes wrong with one peer fails the sends to that peer and
touches nothing else. Nothing is ever read: a relay writes nothing to visitors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IPushProducer, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.errors import UnreachableError
from proxyservice.node.dial import host_port_of
from proxyservice.node.events import NodeEvents

IDLE_SECONDS = 60.0
"""A peer that was not written to for so long is dialled anew next time."""

CONNECTIONS = 256
"""Peers connected at once; beyond, the one least recently used is closed."""

ANSWERED = 128
"""Of these so many to peers that were only answered: whoever asks may name any address, and must
not close the connections that the application uses."""

ANSWERS_DIALLED = 64
"""So many addresses are dialled at a time in order to answer; beyond, answers are not given."""

ANSWER_SECONDS = 10.0
"""For an address to take such a connection; peers wait 30 seconds for a Pong."""

ANSWERS_UNSENT_BYTES = 64 * 1024
"""Answers that may wait for one peer."""

UNSENT_BYTES = 128 * 1024 * 1024
"""What may wait for one peer: two frames of the largest usual size."""


class PeerLinks:
    """All outgoing connections of one node, by `host:port`."""

    def __init__(
        self, dial: Callable[[str], IStreamClientEndpoint], events: NodeEvents, clock: Any
    ) -> None:
        self._dial = dial
        self._events = events
        self._clock = clock
        self._links: OrderedDict[str, _Link] = OrderedDict()

    def __len__(self) -> int:
        return len(self._links)

    def send(self, address: str, frame: bytes) -> Deferred[None]:
        """Fire when the frame has left this process; fail with UnreachableError.

        A relay acknowledges nothing: that the peer has it is not said.
        """
        link = self._link(address)
        link.only_answers = False
        return link.send(frame)

    def answer(self, address: str, frame: bytes) -> Deferred[None]:
        """The same for something that the peer has asked for: given up where it costs much."""
        link = self._links.get(address)
        if link is None:
            dialled = sum(one.only_answers and one.dialling for one in self._links.values())
            if dialled >= ANSWERS_DIALLED:
                return _not_sent(address, "too many others are dialled")
            link = self._link(address, only_answers=True)
            link.give_up_after(ANSWER_SECONDS)
        elif link.unsent_bytes + len(frame) > ANSWERS_UNSENT_BYTES:
            return _not_sent(address, "does not take what it is sent")
        else:
            self._links.move_to_end(address)
        return link.send(frame)

    def _link(self, address: str, *, only_answers: bool = False) -> _Link:
        link = self._links.get(address)
        if link is None:
            endpoint = self._dial(address)  # raises for an address that is none: no link then
            link = self._links[address] = _Link(address, self._clock, self._events, self._gone)
            link.only_answers = only_answers
            link.dial(endpoint)
            self._make_room()
        if address in self._links:
            self._links.move_to_end(address)
        return link

    def _make_room(self) -> None:
        answered = [one for one in self._links.values() if one.only_answers]
        if len(answered) > ANSWERED:
            answered[0].close("closed for other peers")
        if len(self._links) > CONNECTIONS:
            least_used = next(iter(answered or self._links.values()))
            least_used.close("closed for other peers")

    def _gone(self, link: _Link) -> None:
        if self._links.get(link.address) is link:
            del self._links[link.address]

    def close(self) -> None:
        """End all of them; what is unsent fails."""
        for link in list(self._links.values()):
            link.close("the node stops")


@implementer(IPushProducer)
class _Link(Protocol):
    """One peer. Frames wait in order until the connection is there and takes them."""

    transport: Any = None

    def __init__(
        self, address: str, clock: Any, events: NodeEvents, gone: Callable[[_Link], None]
    ) -> None:
        self.address = address
        self._events = events
        self._clock = clock
        self._gone = gone
        self._unsent: list[tuple[bytes, Deferred[None]]] = []  # before the connection is there
        self._leaving: list[tuple[int, Deferred[None]]] = []  # written, in the transport's queue
        self._unsent_bytes = 0
        self.only_answers = False
        """The application has sent nothing here."""
        self._idle: Any = clock.callLater(IDLE_SECONDS, self.close, "idle")
        self._attempt: Deferred[Any] | None = None
        self._giving_up: Any = None
        self._over = False

    @property
    def dialling(self) -> bool:
        """It is not there yet."""
        return self.transport is None and not self._over

    @property
    def unsent_bytes(self) -> int:
        """What waits for the peer."""
        return self._unsent_bytes

    def give_up_after(self, seconds: float) -> None:
        """An answer is not worth a longer wait for the connection."""
        if self.dialling:
            self._giving_up = self._clock.callLater(seconds, self._give_up)

    def _give_up(self) -> None:
        self._giving_up = None
        if self.only_answers:
            self.close("it takes no connection")

    def _wait_on(self) -> None:
        """It is there, or will not be."""
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def dial(self, endpoint: IStreamClientEndpoint) -> None:
        """Connect; failing fails what waits."""
        self._attempt = maybeDeferred(endpoint.connect, Factory.forProtocol(lambda: self))
        self._attempt.addErrback(lambda failure: self._end(failure.getErrorMessage()))

    def connectionMade(self) -> None:
        """The peer's relay is there: send what waits."""
        if self._over:
            self.transport.abortConnection()
            return
        self._wait_on()
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._events.peer_connected(self.address, host_port_of(self.transport.getHost()))
        unsent, self._unsent = self._unsent, []
        for frame, sent in unsent:
            self._write(frame, sent)

    def send(self, frame: bytes) -> Deferred[None]:
        """Write now, or when connected."""
        sent: Deferred[None] = Deferred()
        if self._over or self._unsent_bytes + len(frame) > UNSENT_BYTES:
            why = "is gone" if self._over else "does not take what it is sent"
            sent.errback(Failure(UnreachableError(f"peer {self.address} {why}")))
            return sent
        self._unsent_bytes += len(frame)
        if self.transport is None:
            self._unsent.append((frame, sent))
        else:
            self._write(frame, sent)
        return sent

    def _write(self, frame: bytes, sent: Deferred[None]) -> None:
        self._leaving.append((len(frame), sent))
        self.transport.write(frame)
        if not self.transport.queued_bytes:
            self.resumeProducing()

    def resumeProducing(self) -> None:
        """All that was written has left."""
        leaving, self._leaving = self._leaving, []
        self._idle.reset(IDLE_SECONDS)
        for size, sent in leaving:
            self._unsent_bytes -= size
            sent.callback(None)

    def pauseProducing(self) -> None:
        """The peer is slow; `UNSENT_BYTES` is the bound."""

    def stopProducing(self) -> None:
        """`connectionLost` follows."""

    def dataReceived(self, data: bytes) -> None:
        """A relay says nothing to visitors; whatever this is, nobody asked for it."""

    def close(self, why: str) -> None:
        """End it, in order where there is something in flight."""
        if why == "idle" and self._unsent_bytes:
            self._idle = self._clock.callLater(IDLE_SECONDS, self.close, "idle")
            return
        if self.transport is not None:
            self.transport.unregisterProducer()  # a paused one would put the close off
            self.transport.loseConnection()
        elif self._attempt is not None:
            self._attempt.cancel()
        self._end(why)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The peer's relay closed: it has gone, or refused a frame."""
        self._end("the connection was closed")

    def _end(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        self._wait_on()
        self._gone(self)
        if self._idle.active():
            self._idle.cancel()
        waiting = [sent for _, sent in self._unsent] + [sent for _, sent in self._leaving]
        self._unsent, self._leaving = [], []
        error = UnreachableError(f"peer {self.address} cannot be reached: {why}")
        for sent in waiting:
            sent.errback(Failure(error))


def _not_sent(address: str, why: str) -> Deferred[None]:
    return fail(UnreachableError(f"peer {address} is not answered: {why}"))
