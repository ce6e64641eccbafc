"""How much of one turn of the reactor a connection may use for what its peer sent.

Each connection has a little work in each turn that no other source can take
from it, and draws on a sum for all beyond that. When both are used up it waits,
unread, and goes on in a later turn. Those that wait go on in rotation of their
sources, and within a source of its connections: with many connections nobody
has more turns. So what one source sends delays that source; who sends little
never waits for others. Work is counted in the units of `wire/work.py`. Knows
neither frames nor protocols.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from twisted.logger import Logger

from proxyservice.net.lean_loop import turn_end

OWN_UNITS: Final = 20_000
"""Of each connection in each turn: 0.2 ms, five requests or twenty pieces of data."""

SOURCE_UNITS: Final = 500_000
"""Of that, for all connections of one source: 5 ms, twenty-five of them that use all of theirs."""

SHARED_UNITS: Final = 250_000
"""Of all together in each turn, beyond that: two and a half milliseconds."""

log = Logger()


class Worker(Protocol):
    """Somebody with something to read that did not fit into the turn in which it came."""

    def work_turn(self) -> None:
        """Go on reading; wait again if there is still more."""

    def work_failed(self) -> None:
        """That raised, which is our own mistake and is logged: its connection ends."""


Source = str | Worker
"""Who has turns in rotation: a source, or a connection that stands for itself alone."""


class Turns:
    """The turns of one reactor, for all that wait for one.

    Without a reactor that runs (a test's clock, say) there are no turns, and
    everybody may do everything now.
    """

    def __init__(self, reactor: Any = None) -> None:
        self._reactor = reactor
        # In the order of their turns: sources, and of each those who wait.
        self._waiting: dict[Source, dict[Worker, Share]] = {}
        self._lent_units: dict[str, int] = {}  # in this turn, of what sources have
        self._begun = False  # something was used of this turn
        self._call: Any = None
        self.number = 0
        self.left_units = SHARED_UNITS
        self.served: Share | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def limited(self) -> bool:
        """There are turns, and they end."""
        return bool(getattr(self._reactor, "running", False))

    def begin(self) -> None:
        """Something is used of this turn: see to it that its end is noticed."""
        if self._begun:
            return
        self._begun = True
        if turn_end.active:
            turn_end.defer(self._over)
        else:
            self._reactor.callLater(0, self._over)

    def _over(self) -> None:
        self._begun = False
        self.number += 1
        self.left_units = SHARED_UNITS
        if self._lent_units:
            self._lent_units = {}

    def lend(self, source: str | None) -> int:
        """What a connection of this source has for itself in this turn."""
        if source is None:
            return OWN_UNITS
        lent_units = self._lent_units.get(source, 0)
        if lent_units >= SOURCE_UNITS:
            return 0
        self._lent_units[source] = lent_units + OWN_UNITS
        return OWN_UNITS

    def wait(self, worker: Worker, share: Share) -> None:
        """It goes on in a later turn, behind those of its source that wait already."""
        of_source = self._waiting.setdefault(_name(worker, share), {})
        of_source.setdefault(worker, share)
        if self._call is None:
            self._call = self._reactor.callLater(0, self._serve)

    def forget(self, worker: Worker, share: Share) -> None:
        """It has nothing more to read."""
        name = _name(worker, share)
        of_source = self._waiting.get(name)
        if of_source is None or of_source.pop(worker, None) is None:
            return
        if not of_source:
            del self._waiting[name]
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _serve(self) -> None:
        """One portion for each that waits, as far as this turn goes; what is left waits on."""
        self._call = None
        self._over()
        self.begin()
        for _ in range(self.waiting):
            if self.left_units <= 0 or not self._waiting:
                break
            name, of_source = next(iter(self._waiting.items()))
            worker = next(iter(of_source))
            share = of_source.pop(worker)
            del self._waiting[name]
            if of_source:
                self._waiting[name] = of_source  # behind the other sources
            self._serve_one(worker, share)
        if self._waiting and self._call is None:
            self._call = self._reactor.callLater(0, self._serve)

    def _serve_one(self, worker: Worker, share: Share) -> None:
        self.served = share
        share.new_portion()
        try:
            worker.work_turn()
        except Exception:  # the others have their turns all the same
            log.failure("what a peer sent could not be handled")
            worker.work_failed()
        self.served = None


def _name(worker: Worker, share: Share) -> Source:
    """Whom a worker shares its turns with."""
    return worker if share.source is None else share.source


class Share:
    """One connection's part of the turns; a ``source`` of None stands for itself alone."""

    __slots__ = ("_forced", "_left_units", "_number", "_turns", "source")

    def __init__(self, turns: Turns, source: str | None = None) -> None:
        self._turns = turns
        self.source = source
        self._number = -1
        self._left_units = 0
        self._forced = False

    def new_portion(self) -> None:
        """It waited, and this is its turn: the first thing it does may be as large as it likes."""
        self._number, self._left_units, self._forced = -1, OWN_UNITS, True

    def take(self, units: int) -> bool:
        """Whether so much may be done now, and then it counts; else wait for a turn."""
        left_units = self._left_units - units
        if left_units >= 0 and self._number == self._turns.number:
            self._left_units = left_units
            return True
        return self._take_of_all(units)

    def spend(self, units: int) -> None:
        """Work that what was taken for led to: it is done, and counts before more is taken."""
        turns = self._turns
        if turns.limited:
            self._left_units -= units
            turns.left_units -= units

    def _take_of_all(self, units: int) -> bool:
        """The same, where it is not simply this turn's own part that is used."""
        turns = self._turns
        if turns.served is self:
            return self._take_in_turn(units)
        if turns.number != self._number:
            if not turns.limited:
                return True
            turns.begin()
            self._number, self._left_units = turns.number, turns.lend(self.source)
            return self.take(units)
        if units > turns.left_units:
            return False
        turns.left_units -= units
        return True

    def _take_in_turn(self, units: int) -> bool:
        if not self._forced and units > min(self._left_units, self._turns.left_units):
            return False
        self._forced = False
        self._left_units -= units
        self._turns.left_units -= units
        return True
