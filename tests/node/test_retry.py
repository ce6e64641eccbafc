"""The schedule of reconnecting, number by number."""

from __future__ import annotations

import pytest

from proxyservice.node.finality import EVERY_FIVE_MINUTES, LONG, MEDIUM, SHORT
from proxyservice.node.retry import Backoff, Retry


def longest(low: float, high: float) -> float:
    return high


def shortest(low: float, high: float) -> float:
    return low


def test_three_quick_ones_then_a_second_doubling_to_twenty() -> None:
    retry = Retry(1, longest)
    delays = [retry.failed(SHORT, 0.0) for _ in range(12)]
    assert delays == [0.2, 0.2, 0.2, 1, 2, 4, 8, 16, 20, 20, 20, 20]


def test_the_jitter_is_full() -> None:
    retry = Retry(1, shortest)
    assert [retry.failed(SHORT, 0.0) for _ in range(5)] == [0.2, 0.2, 0.2, 0, 0]


def test_slow_troubles_have_long_waits_that_grow_and_are_never_shorter_than_said() -> None:
    assert [Backoff(shortest).failed(waits) for waits in (MEDIUM, LONG)] == [2, 60]
    backoff = Backoff(shortest)
    assert [backoff.failed(MEDIUM) for _ in range(10)] == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert [backoff.failed(LONG) for _ in range(8)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert [backoff.failed(EVERY_FIVE_MINUTES) for _ in range(50)] == [300] * 50
    assert Backoff(longest).failed(LONG) == 75
    assert max(Backoff(longest).failed(LONG) for _ in range(5000)) <= 3600


def test_another_kind_of_trouble_begins_anew() -> None:
    backoff = Backoff(shortest)
    for _ in range(9):
        backoff.failed(SHORT)
    assert backoff.failed(LONG) == 60
    assert backoff.failed(SHORT) == 0.2


@pytest.mark.parametrize(("hint", "wait"), [(0.0, 2.0), (90.0, 90.0), (2.0**62, 3600.0)])
def test_a_hint_is_the_least_and_an_hour_the_most(hint: float, wait: float) -> None:
    assert Backoff(shortest).failed(MEDIUM, hint) == wait


def test_the_same_server_first_then_the_others_in_order() -> None:
    retry = Retry(3, longest)
    retry.failed(SHORT, 0.0)
    assert retry.server == 1
    retry.settled()
    retry.lost(SHORT, 10.0)
    assert retry.server == 1
    servers = []
    for now in range(20, 24):
        retry.failed(SHORT, float(now))
        servers.append(retry.server)
    assert servers == [2, 0, 1, 2]


def test_only_a_connection_that_held_starts_the_count_anew() -> None:
    retry = Retry(1, longest)
    for _ in range(6):
        retry.failed(SHORT, 0.0)
    assert retry.lost(SHORT, 0.0) == 8
    retry.settled()
    assert retry.lost(SHORT, 0.0) == 0.2


def test_a_hint_binds_its_own_server_alone() -> None:
    retry = Retry(2, longest)
    assert retry.failed(MEDIUM, 0.0, hint_seconds=3 * 3600.0) == 0.2
    assert retry.server == 1
    assert retry.failed(SHORT, 1.0) == 0.2
    assert retry.server == 1, "the other has its hour"
    for now in range(2, 40):
        retry.failed(SHORT, float(now))
        assert retry.server == 1
    assert retry.failed(SHORT, 3601.0) == 0.2
    assert retry.server == 0


def test_one_that_is_long_away_does_not_slow_the_others_down() -> None:
    retry = Retry(2, longest)
    for now in range(10):
        while retry.failed(SHORT, float(now * 30)) and retry.server == 0:
            pass
    retry.settled()
    assert retry.lost(SHORT, 1000.0) == 0.2


def test_a_server_that_stops_is_asked_often_at_its_time_and_not_for_ever() -> None:
    retry = Retry(1, longest)
    assert retry.sent_away(0.0, 3.0, 60.0) == 3.0
    assert max(retry.failed(SHORT, float(now)) for now in range(3, 60)) == 2.0
    assert retry.sent_away(59.0, 0.0, 2.0**62) <= 2.0
    assert retry.failed(SHORT, 61.0) == 20.0, "what is said again meanwhile prolongs nothing"


def test_a_stop_that_never_ends_is_not_believed() -> None:
    retry = Retry(1, longest)
    assert retry.sent_away(0.0, 2.0**62, 2.0**62) == 3600.0
    retry = Retry(1, longest)
    retry.sent_away(0.0, 0.0, 2.0**62)
    for now in range(1, 599):
        assert retry.failed(SHORT, float(now)) <= 2.0
    assert retry.failed(SHORT, 601.0) == 20.0


def test_a_server_that_is_of_no_use_is_passed_over() -> None:
    retry = Retry(3, longest)
    assert retry.gave_up(0.0) == 0.2
    assert retry.server == 1
    retry.failed(SHORT, 1.0)
    retry.failed(SHORT, 2.0)
    assert retry.server == 1
    retry.gave_up(3.0)
    assert retry.server == 2
    assert not retry.is_hopeless
    retry.gave_up(4.0)
    assert retry.is_hopeless
    retry.hope_again(0)
    assert not retry.is_hopeless
