"""The schedule of reconnecting, number by number."""

from __future__ import annotations

from proxyservice.node.retry import Retry


def longest(low: float, high: float) -> float:
    assert low == 0.0
    return high


def test_three_quick_ones_then_a_second_doubling_to_twenty() -> None:
    retry = Retry(1, longest)
    delays = [retry.failed() for _ in range(12)]
    assert delays == [0.2, 0.2, 0.2, 1, 2, 4, 8, 16, 20, 20, 20, 20]


def test_the_jitter_is_full() -> None:
    retry = Retry(1, lambda low, high: low)
    assert [retry.failed() for _ in range(5)] == [0.2, 0.2, 0.2, 0, 0]


def test_the_same_server_first_then_the_others_in_order() -> None:
    retry = Retry(3, longest)
    retry.failed()
    assert retry.server == 1
    retry.lost(settled=True)
    assert retry.server == 1
    servers = []
    for _ in range(4):
        retry.failed()
        servers.append(retry.server)
    assert servers == [2, 0, 1, 2]


def test_only_a_connection_that_held_starts_the_count_anew() -> None:
    retry = Retry(1, longest)
    for _ in range(6):
        retry.failed()
    assert retry.lost(settled=False) == 8
    assert retry.lost(settled=True) == 0.2
