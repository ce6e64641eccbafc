"""When to try again, and where: the manners of a client whose connection ended.

Each server of the list has its own count of failures, its own next time and
its own hints: what one says, or how long it is away, keeps nobody from asking
the next. A server that was lost is tried first, then the others in their
order. Which waits an error has is `finality.py`'s. No timer and no clock in here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from proxyservice.node.finality import LONGEST_WAIT_SECONDS, SHORT, Waits

Uniform = Callable[[float, float], float]
"""``uniform(low, high)`` draws the jitter."""

QUICK_SECONDS = 0.2
"""Before a quick try, and before another server of the list is asked."""

RESTART_DELAY_SECONDS = 2.0
"""Longest delay between attempts while a server that said so restarts."""

LONGEST_RESTART_SECONDS = 600.0
"""For so long that is believed."""

SPREAD = 1.25
"""A wait without full jitter may be this much longer."""


class Backoff:
    """Counts failures in a row, and says how long to wait after each."""

    def __init__(self, uniform: Uniform = random.uniform) -> None:
        self._uniform = uniform
        self._failures = 0
        self._waits = SHORT

    def failed(self, waits: Waits, hint_seconds: float = 0.0) -> float:
        """One more; return the wait, which is no shorter than the hint."""
        if waits is not self._waits:  # another kind of trouble begins anew
            self._failures, self._waits = 0, waits
        self._failures += 1
        return max(self._seconds(), min(hint_seconds, LONGEST_WAIT_SECONDS))

    def _seconds(self) -> float:
        waits = self._waits
        if self._failures <= waits.quick_tries:
            return QUICK_SECONDS
        doublings = min(self._failures - waits.quick_tries - 1, 16)
        seconds = min(waits.longest_seconds, waits.first_seconds * 2**doublings)
        if waits.full_jitter:
            return self._uniform(0.0, seconds)
        return min(waits.longest_seconds, self._uniform(seconds, SPREAD * seconds))

    def over(self) -> None:
        """It is well again."""
        self._failures = 0


@dataclass(slots=True)
class _Turn:
    """What is known of one server."""

    backoff: Backoff
    ready_at: float = -math.inf
    """Not to be asked before; infinite when there is no use in asking."""
    often_until: float = -math.inf
    """It restarts, and wants to be asked at short intervals until then."""


@dataclass(slots=True)
class Retry:
    """Whose turn it is, among ``server_count`` servers; ``now`` is monotonic seconds."""

    server_count: int
    uniform: Uniform = random.uniform
    server: int = 0
    """Index of the server to dial."""
    _turns: list[_Turn] = field(init=False)

    def __post_init__(self) -> None:
        assert self.server_count > 0
        self._turns = [_Turn(Backoff(self.uniform)) for _ in range(self.server_count)]

    @property
    def is_hopeless(self) -> bool:
        """No server is left that is of any use."""
        return all(turn.ready_at == math.inf for turn in self._turns)

    def settled(self) -> None:
        """A connection has worked for a while: all counts begin anew.

        One that did not still counts as a failure, or two processes with one
        identity would fight five times a second.
        """
        for turn in self._turns:
            turn.backoff.over()

    def lost(self, waits: Waits, now: float, hint_seconds: float = 0.0) -> float:
        """A connection that worked has ended; return the delay before `server` is dialled.

        That is the same one, unless it is to be asked later than another.
        """
        self._count(waits, now, hint_seconds)
        return self._choose(self.server, now)

    def failed(self, waits: Waits, now: float, hint_seconds: float = 0.0) -> float:
        """An attempt has failed: go on to the next; return the delay before it is dialled."""
        self._count(waits, now, hint_seconds)
        return self._choose(self.server + 1, now)

    def sent_away(self, now: float, back_in_seconds: float, try_for_seconds: float) -> float:
        """The server is about to stop: on to the next; return the delay before it is dialled.

        It wants to be asked after ``back_in_seconds``, and then often until
        ``try_for_seconds`` from now; said again meanwhile, that prolongs nothing.
        """
        turn = self._turns[self.server]
        if now >= turn.often_until:
            turn.often_until = now + min(try_for_seconds, LONGEST_RESTART_SECONDS)
        self._count(SHORT, now, back_in_seconds)
        return self._choose(self.server + 1, now)

    def gave_up(self, now: float) -> float:
        """The server is no use any more; return the delay before the next is dialled."""
        self._turns[self.server].ready_at = math.inf
        return self._choose(self.server + 1, now)

    def hope_again(self, server: int) -> None:
        """It may be of use after all, from now on."""
        self._turns[server].ready_at = -math.inf

    def _count(self, waits: Waits, now: float, hint_seconds: float) -> None:
        turn = self._turns[self.server]
        wait_seconds = turn.backoff.failed(waits, hint_seconds)
        if waits is SHORT and now < turn.often_until:
            wait_seconds = min(wait_seconds, max(RESTART_DELAY_SECONDS, hint_seconds))
        turn.ready_at = now + min(wait_seconds, LONGEST_WAIT_SECONDS)

    def _choose(self, first: int, now: float) -> float:
        """The one that may be asked soonest, the earlier from ``first`` on among equals."""
        in_order = [(first + n) % self.server_count for n in range(self.server_count)]
        soonest = now + QUICK_SECONDS
        self.server = min(in_order, key=lambda one: max(soonest, self._turns[one].ready_at))
        wait_seconds = self._turns[self.server].ready_at - now
        least_seconds = 0.0 if self.server_count == 1 else QUICK_SECONDS
        return max(round(wait_seconds, 6), least_seconds)  # less is what the clock's floats lose
