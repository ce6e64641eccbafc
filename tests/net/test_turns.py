"""Turns: little is done at once, much in portions, in rotation; nobody waits for a greedy one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from proxyservice.net.turns import OWN_UNITS, SHARED_UNITS, SOURCE_UNITS, Share, Turns

A_TURN_SECONDS = 0.001


class RunningClock(Clock):
    """A reactor that runs, turn by turn."""

    running = True

    def callLater(self, delay: float, *args: Any, **kw: Any) -> Any:
        return super().callLater(delay or A_TURN_SECONDS, *args, **kw)

    def turn(self) -> None:
        """What is due by now happens, and what that leads to in the next turn."""
        self.advance(A_TURN_SECONDS)


class Greedy:
    """Has so many pieces of work to do."""

    def __init__(
        self,
        turns: Turns,
        pieces: int,
        units: int,
        done: Callable[[Greedy], None],
        source: str | None = None,
    ) -> None:
        self.turns, self.share = turns, Share(turns, source)
        self.left, self.units, self.done = pieces, units, done
        self.failed = False

    def work_turn(self) -> None:
        while self.left:
            if not self.share.take(self.units):
                self.turns.wait(self, self.share)
                return
            self.left -= 1
            self.done(self)

    def work_failed(self) -> None:
        self.failed = True


def test_a_turn_has_so_much_of_each_and_so_much_of_all() -> None:
    clock = RunningClock()
    turns = Turns(clock)
    greedy, modest = Share(turns), Share(turns)
    done = 0
    while greedy.take(1000):
        done += 1000
    assert done == OWN_UNITS + SHARED_UNITS
    assert not greedy.take(1)
    assert modest.take(OWN_UNITS), "its own part is nobody else's"
    assert not modest.take(1)
    clock.turn()
    assert greedy.take(OWN_UNITS + 1), "the next turn has as much"
    clock.turn()
    assert not clock.getDelayedCalls(), "without work there are no turns"


def test_who_waits_goes_on_in_rotation_and_a_turn_at_a_time() -> None:
    clock = RunningClock()
    turns = Turns(clock)
    order: list[Greedy] = []
    crowd = [Greedy(turns, 100, OWN_UNITS, order.append) for _ in range(30)]
    for one in crowd:
        one.work_turn()
    most = SHARED_UNITS // OWN_UNITS + 1
    while any(one.left for one in crowd):
        before = len(order)
        clock.turn()
        assert 0 < len(order) - before <= most
        assert Share(turns).take(OWN_UNITS), "a newcomer is served in the same turn"
        waiting = [one.left for one in crowd if one.left]
        if len(waiting) == len(crowd):
            assert max(waiting[5:]) - min(waiting[5:]) <= 1, "in rotation"
    clock.turn()
    assert turns.waiting == 0
    assert not clock.getDelayedCalls()


def test_a_source_of_many_connections_has_no_more_turns_than_another() -> None:
    clock = RunningClock()
    turns = Turns(clock)
    order: list[Greedy] = []
    crowd = [Greedy(turns, 100, OWN_UNITS + 1, order.append, "many") for _ in range(200)]
    one = Greedy(turns, 100, OWN_UNITS + 1, order.append, "one")
    for each in (*crowd, one):
        turns.wait(each, each.share)
    while one.left:
        clock.turn()
    assert len(order) <= 2 * 100 + SHARED_UNITS // OWN_UNITS, "every other turn is its own"
    assert turns.waiting == len(crowd)


def test_connections_of_one_source_have_so_much_together_in_a_turn() -> None:
    clock = RunningClock()
    turns = Turns(clock)
    done = 0
    for share in [Share(turns, "many") for _ in range(300)]:
        while share.take(1000):
            done += 1000
    assert done == SOURCE_UNITS + SHARED_UNITS
    assert Share(turns, "another").take(OWN_UNITS)
    assert Share(turns).take(OWN_UNITS), "trusted ones have each their own"
    clock.turn()
    assert Share(turns, "many").take(OWN_UNITS), "the next turn has as much"


def test_what_work_led_to_counts_before_more_is_taken() -> None:
    clock = RunningClock()
    turns = Turns(clock)
    share, done = Share(turns), 0
    while share.take(1000):
        share.spend(49_000)
        done += 1
    assert done <= (OWN_UNITS + SHARED_UNITS) // 50_000 + 1
    assert Share(turns).take(OWN_UNITS), "others have their own all the same"


def test_what_is_larger_than_a_turn_has_one_of_its_own() -> None:
    clock = RunningClock()
    turns = Turns(clock)
    order: list[Greedy] = []
    large = Greedy(turns, 2, 10 * SHARED_UNITS, order.append)
    large.work_turn()
    assert not order
    clock.turn()
    assert order == [large]
    clock.turn()
    assert order == [large, large]


def test_who_is_gone_has_no_turn() -> None:
    clock = RunningClock()
    turns = Turns(clock)
    order: list[Greedy] = []
    one, other = (Greedy(turns, 1, 10 * SHARED_UNITS, order.append) for _ in range(2))
    one.work_turn()
    other.work_turn()
    turns.forget(one, one.share)
    clock.turn()
    assert order == [other]
    turns.wait(one, one.share)
    turns.forget(one, one.share)
    clock.turn()
    assert order == [other]
    assert not clock.getDelayedCalls()


def test_what_one_raises_ends_that_one_and_no_turn() -> None:
    clock = RunningClock()
    turns = Turns(clock)
    order: list[Greedy] = []

    def fail(one: Greedy) -> None:
        raise ZeroDivisionError

    bad = Greedy(turns, 1, 10 * SHARED_UNITS, fail)
    good = Greedy(turns, 1, 10 * SHARED_UNITS, order.append)
    bad.work_turn()
    good.work_turn()
    events: list[LogEvent] = []
    observe = events.append
    globalLogPublisher.addObserver(observe)
    try:
        clock.turn()
        clock.turn()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
    assert bad.failed
    assert order == [good]


def test_without_a_reactor_that_runs_there_are_no_turns() -> None:
    share = Share(Turns(Clock()))
    assert all(share.take(SHARED_UNITS) for _ in range(10))
    assert Share(Turns()).take(10 * SHARED_UNITS)
