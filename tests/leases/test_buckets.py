"""Token buckets by key: the burst, the rate, and that they are forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxyservice.leases.buckets import Buckets


def test_a_burst_then_the_rate_and_each_key_for_itself() -> None:
    buckets = Buckets()
    assert [buckets.take("a", 0.0, 2.0, 3.0) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert buckets.take("b", 0.0, 2.0, 3.0) == 0
    assert buckets.take("a", 0.5, 2.0, 3.0) == 0
    assert buckets.take("a", 0.5, 2.0, 3.0) > 0


@given(st.lists(st.floats(0.0, 3.0), max_size=60))
def test_never_more_than_the_burst_and_the_rate(gaps: list[float]) -> None:
    buckets, now, taken = Buckets(), 0.0, list[float]()
    for gap in gaps:
        now += gap
        if buckets.take("a", now, 2.0, 5.0) == 0:
            taken.append(now)
    for index, first in enumerate(taken):
        for count, last in enumerate(taken[index:], 1):
            assert count <= 5 + 2 * (last - first) + 1e-6


def test_full_buckets_are_forgotten() -> None:
    buckets = Buckets()
    for number in range(1000):
        buckets.take(number, 0.0, 10.0, 10.0)
    assert len(buckets) == 1000
    for number in range(1000):
        buckets.take(("later", number % 3), 2.0, 10.0, 1e6)
    assert len(buckets) == 3


def test_a_burst_of_five_and_then_one_each_ten_seconds() -> None:
    buckets, slow = Buckets(), (0.1, 5)
    assert [buckets.take("a", 1000.0, *slow) for _ in range(6)] == [0, 0, 0, 0, 0, 10.0]
    assert buckets.take("a", 1004.0, *slow) == 6.0
    assert buckets.wait_seconds("a", 1004.0, *slow) == 6.0
    assert buckets.take("a", 1010.0, *slow) == 0
    assert buckets.take("a", 1010.0, *slow) == 10.0


def test_a_bucket_fills_to_its_burst_and_no_further() -> None:
    buckets, slow = Buckets(), (0.1, 5)
    for _ in range(5):
        buckets.take("a", 0.0, *slow)
    buckets.take("b", 49.9, *slow)
    assert len(buckets) == 2  # the first is not full yet
    buckets.take("b", 50.0, *slow)
    assert len(buckets) == 1
    assert [buckets.take("a", 1e6, *slow) for _ in range(6)] == [0, 0, 0, 0, 0, 10.0]


def test_ten_thousand_tries_are_let_through_at_the_rate() -> None:
    buckets = Buckets()
    allowed = sum(buckets.take("a", number * 0.1, 0.1, 5) == 0 for number in range(10_000))
    assert allowed == 5 + 99  # 999.9 s
