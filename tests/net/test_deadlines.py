from __future__ import annotations

from proxyservice.net.deadlines import Deadlines


class Owner:
    def __init__(self, again: float | None = None) -> None:
        self.again = again
        self.called: list[float] = []

    def deadline_passed(self, now: float) -> float | None:
        self.called.append(now)
        return self.again


def test_only_the_late_are_told_and_once() -> None:
    deadlines, early, late = Deadlines(), Owner(), Owner()
    deadlines.set(early, 1.0)
    deadlines.set(late, 2.0)
    deadlines.tick(1.5)
    deadlines.tick(1.6)
    assert (early.called, late.called, len(deadlines)) == ([1.5], [], 1)


def test_a_newer_deadline_replaces_the_older() -> None:
    deadlines, owner = Deadlines(), Owner()
    deadlines.set(owner, 1.0)
    deadlines.set(owner, 5.0)
    deadlines.tick(4.0)
    assert owner.called == []
    deadlines.tick(5.0)
    assert owner.called == [5.0]


def test_the_answer_is_the_next_deadline() -> None:
    deadlines, owner = Deadlines(), Owner(again=9.0)
    deadlines.set(owner, 1.0)
    deadlines.tick(1.0)
    deadlines.tick(8.9)
    assert owner.called == [1.0]
    deadlines.tick(9.0)
    assert owner.called == [1.0, 9.0]


def test_forgotten_owners_are_not_told_and_leave_nothing() -> None:
    deadlines = Deadlines()
    for _ in range(10_000):
        owner = Owner()
        deadlines.set(owner, 1.0)
        deadlines.forget(owner)
    deadlines.tick(2.0)
    assert len(deadlines) == 0
    assert len(deadlines._heap) <= 64


def test_forgetting_another_during_a_tick_is_honoured_next_time() -> None:
    deadlines, other = Deadlines(), Owner()

    class Forgetful(Owner):
        def deadline_passed(self, now: float) -> float | None:
            deadlines.forget(other)
            return None

    deadlines.set(Forgetful(), 1.0)
    deadlines.set(other, 2.0)
    deadlines.tick(1.0)
    deadlines.tick(3.0)
    assert other.called == []
