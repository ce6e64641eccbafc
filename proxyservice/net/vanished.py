"""Peers whose TCP owes an acknowledgement and gives none: their machine or their path is gone.

The kernel has a timeout for that (TCP_USER_TIMEOUT), but it also ends the
connection of a peer that lives and chooses not to read, which a visitor may,
and a node can be made to. Here a peer that answers TCP's questions is alive,
however long its window is closed. Where the system does not tell (anything
but Linux) nobody is watched, and the kernel's timeouts are all there is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Any, Final

from proxyservice.net.tcp_answers import TcpAnswers, tcp_answers

LOOK_SECONDS: Final = 2.0
"""How often each connection is looked at: a question to the kernel costs a microsecond."""

TICK_SECONDS: Final = 0.25
"""The looks are spread, so that thousands of connections do not delay anybody."""

LEAST_LOOKS: Final = 16
"""At a time: so many cost nothing worth spreading."""

UNANSWERED_PROBES: Final = 3
"""At a closed window: a single question and its answer may be lost."""


_KEPT_AS: Final = "_proxyservice_watch"
"""An attribute of the reactor: one for each, and with it it goes."""


class Watched:
    """One connection; ``vanished`` is called once when its TCP was silent for ``seconds``."""

    __slots__ = ("_acknowledged_bytes", "_seconds", "_since", "_transport", "vanished")

    def __init__(self, transport: Any, seconds: float, vanished: Callable[[], None]) -> None:
        self._transport = transport
        self._seconds = seconds
        self.vanished = vanished
        self._since: float | None = None  # an acknowledgement is owed
        self._acknowledged_bytes = -1  # when all of them were

    def has_vanished(self, now: float) -> bool:
        """Look at it; what has sent nothing since the last look costs nothing."""
        sent_bytes = self._transport.sent_bytes
        if sent_bytes == self._acknowledged_bytes:
            return False
        answers = tcp_answers(self._transport)
        if answers is None:
            return False
        if not _owes(answers):
            self._since = None
            if not (answers.held_back or answers.unanswered_probes):
                self._acknowledged_bytes = sent_bytes
            return False
        if self._since is None or answers.heard_ago_seconds < now - self._since:
            self._since = now
        return now - self._since >= self._seconds


def _owes(answers: TcpAnswers) -> bool:
    return answers.unacknowledged or answers.unanswered_probes >= UNANSWERED_PROBES


class Watch:
    """All connections of one reactor; its timer runs only while there are any."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._watched: OrderedDict[Any, Watched] = OrderedDict()
        self._timer: Any = None

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, transport: Any, seconds: float, vanished: Callable[[], None]) -> None:
        """Look after this one from now on, until it is discarded or has vanished."""
        self._watched[transport] = Watched(transport, seconds, vanished)
        if self._timer is None:
            self._timer = self._clock.callLater(TICK_SECONDS, self._look)

    def discard(self, transport: Any) -> None:
        """It is closed; unknown ones are ignored."""
        self._watched.pop(transport, None)
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """At those whose turn it is."""
        self._timer = self._clock.callLater(TICK_SECONDS, self._look)
        now = self._clock.seconds()
        gone = []
        share = ceil(len(self._watched) * TICK_SECONDS / LOOK_SECONDS)
        for _ in range(min(max(share, LEAST_LOOKS), len(self._watched))):
            transport, watched = next(iter(self._watched.items()))
            self._watched.move_to_end(transport)
            if watched.has_vanished(now):
                gone.append(transport)
        for transport in gone:
            vanished = self._watched.get(transport)
            if vanished is not None:  # else it was closed by one before it
                self.discard(transport)
                vanished.vanished()


def watch(transport: Any, seconds: float, vanished: Callable[[], None]) -> Callable[[], None]:
    """Have this transport's connection watched; call what is returned when it is closed."""
    if tcp_answers(transport) is None:
        return nobody_watches
    reactor = transport.reactor
    found = getattr(reactor, _KEPT_AS, None)
    if found is None:
        found = Watch(reactor)
        setattr(reactor, _KEPT_AS, found)
    found.add(transport, seconds, vanished)
    return lambda: found.discard(transport)


def nobody_watches() -> None:
    """The system cannot tell."""
