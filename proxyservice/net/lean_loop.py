"""Twisted's epoll reactor with less ceremony for each event, for processes that are ours.

Four things are left out. Twisted calls each `doRead` through three frames that
set a logging context which nothing here uses; it goes back to its main loop
after each `epoll_wait` though no timer is due; it sleeps between any two events, be
the second ever so near; and it leaves to each descriptor when to send, though
several that are ready in one turn send on the same main connection. `TurnEnd`
is the place for that: what is put there happens once, when the events of this
turn have been handled. Measured, the first two save a tenth of a round trip, the
third half of it, the fourth a third of the work for each request when many
visitors are active at once (docs/performance.md).

The loop relies on five private names of `EPollReactor`; where one is missing,
or another reactor runs (the poll reactor has the same names, and means other
things by them), nothing is installed and everything works as ever.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

_NAMES = ("_poller", "_selectables", "_doReadOrWrite", "_disconnectSelectable", "_justStopped")

EVENTS_AT_ONCE = 512
"""Events of one turn at most: with thousands of descriptors the room for more costs by itself."""

BUSY_POLL_SECONDS = 50e-6
"""How long to look for the next event before sleeping; see `_LeanLoop._wait`."""

log = Logger()


class TurnEnd:
    """What is to happen at the end of the reactor's present turn, in order.

    ``active`` is False where no lean loop runs: then nobody may wait for the
    end of a turn, and whoever has something to do does it at once.
    """

    def __init__(self) -> None:
        self.active = False
        self.longest_turn_seconds = 0.0
        """The longest time, since the start, in which the loop did not look for events."""
        self._calls: list[Callable[[], None]] = []

    def defer(self, call: Callable[[], None]) -> None:
        """Call it when this turn's events have been handled; only while ``active``."""
        self._calls.append(call)

    def run(self) -> bool:
        """The turn is over; true if there was anything. What a call defers is of the same end."""
        waited = bool(self._calls)
        while self._calls:
            calls, self._calls = self._calls, []
            for call in calls:
                try:
                    call()
                except Exception:  # one connection's trouble is not the others'
                    log.failure("an end of turn failed")
        return waited


turn_end = TurnEnd()
"""Of this process's reactor; there is one, as there is one reactor."""


def install_lean_loop(reactor: Any, *, busy_poll: bool = True) -> bool:
    """Make the reactor's iterations lean; before it runs. False where that cannot be done.

    ``busy_poll``: look for the next event a moment before sleeping, where there
    is more than one processor.
    """
    if not _is_epoll_reactor(reactor) or any(not hasattr(reactor, name) for name in _NAMES):
        return False
    seconds = BUSY_POLL_SECONDS if busy_poll and _processors() > 1 else 0.0
    vars(reactor)["doIteration"] = _LeanLoop(reactor, seconds).iterate
    turn_end.active = True
    return True


def _is_epoll_reactor(reactor: Any) -> bool:
    if not hasattr(select, "epoll"):
        return False
    from twisted.internet.epollreactor import EPollReactor  # cannot be imported without epoll

    return isinstance(reactor, EPollReactor)


def _processors() -> int:
    """How many this process may use; PyPy knows only how many there are."""
    affinity = getattr(os, "sched_getaffinity", None)
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))


class _LeanLoop:
    """Stands in for `EPollReactor.doPoll`."""

    def __init__(self, reactor: Any, busy_poll_seconds: float) -> None:
        self._reactor = reactor
        self._poll = reactor._poller.poll
        self._selectables: dict[int, Any] = reactor._selectables
        self._busy_poll_seconds = busy_poll_seconds
        self._is_brisk = False  # the last wait was short
        self._woke = math.inf  # when the last wait ended

    def iterate(self, timeout: float | None) -> None:
        """Stand in for `doIteration`; after a failure of the loop itself Twisted's own goes on.

        The reactor would call a loop that fails again at once, and log each time.
        """
        try:
            self._handle_events(timeout)
        except Exception:
            log.failure("the lean loop failed; Twisted's own goes on, and it is slower")
            del vars(self._reactor)["doIteration"]
            turn_end.active = False
            turn_end.run()

    def _handle_events(self, timeout: float | None) -> None:
        """Handle events until a delayed call, another thread or the end of all needs a turn."""
        selectables, handle = self._selectables, self._handle
        if turn_end.run():  # delayed calls and other threads left something to their turn's end
            timeout = 0  # and that may have set timers of its own
        while True:
            most = min(len(selectables), EVENTS_AT_ONCE) or 1
            try:
                events = self._wait(timeout, most)
            except InterruptedError:
                return
            for fd, event in events:
                selectable = selectables.get(fd)
                if selectable is not None:  # else it was closed by an event before it
                    handle(selectable, fd, event)
            turn_end.run()
            timeout = self._reactor.timeout()
            if timeout == 0 or self._is_wanted_elsewhere():
                return

    def _wait(self, timeout: float | None, most: int) -> list[tuple[int, int]]:
        """The next events; while they come quickly, without sleeping in between.

        To put a thread to sleep and to wake it costs more than a small message:
        of a round trip of 110 us through relay and node, half. So after a short
        wait the loop looks again and again for as long as another short wait
        may last, and then sleeps. Whoever else can run on this processor runs
        first (`sched_yield`), and what comes seldom finds the loop asleep: an
        idle process uses no processor. Kernels do the same for virtual
        machines (haltpoll) and for sockets (net.core.busy_poll).
        """
        poll, began = self._poll, time.perf_counter()
        if began - self._woke > turn_end.longest_turn_seconds:
            turn_end.longest_turn_seconds = began - self._woke
        events: list[tuple[int, int]] = []
        if self._is_brisk:
            until = began + self._busy_poll_seconds
            while not (events := poll(0, most)) and time.perf_counter() < until:
                os.sched_yield()
        if not events:
            events = poll(-1 if timeout is None else timeout, most)
        self._woke = time.perf_counter()
        self._is_brisk = self._woke - began < 2 * self._busy_poll_seconds
        return events

    def _is_wanted_elsewhere(self) -> bool:
        reactor = self._reactor
        return bool(reactor.threadCallQueue or reactor._justStopped or not reactor.running)

    def _handle(self, selectable: Any, fd: int, event: int) -> None:
        """One event; what is neither plainly readable nor plainly writable goes the general way."""
        why = None
        try:
            if event == select.EPOLLIN:
                why = selectable.doRead()
            elif event == select.EPOLLOUT:
                why = selectable.doWrite()
            else:
                self._reactor._doReadOrWrite(selectable, fd, event)
        except Exception as error:
            log.failure("a descriptor failed")
            why = error
        if why:
            self._reactor._disconnectSelectable(selectable, why, event == select.EPOLLIN)
