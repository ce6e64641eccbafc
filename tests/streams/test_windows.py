"""Credit arithmetic: what is granted, used, held and returned always adds up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.errors import StreamError
from proxyservice.streams.windows import (
    CREDIT_BOUND_BYTES,
    CREDIT_LIMIT,
    DEFAULT_WINDOW_BYTES,
    LARGEST_WINDOW_BYTES,
    SCARCE_BYTES,
    SMALL_WINDOW_BYTES,
    CreditBudget,
    ReceiveWindow,
    SendWindow,
)


@pytest.mark.parametrize("credit", [0, -1, CREDIT_LIMIT, CREDIT_LIMIT + 1, 1 << 32])
def test_credit_of_nothing_and_credit_beyond_the_limit_are_errors(credit: int) -> None:
    window = SendWindow(1)
    with pytest.raises(StreamError):
        window.granted(credit)
    assert window.credit_bytes == 1


def test_credit_up_to_the_limit_is_fine() -> None:
    window = SendWindow(1)
    window.granted(CREDIT_LIMIT - 1)
    assert window.credit_bytes == CREDIT_LIMIT


def test_data_beyond_credit_is_an_error() -> None:
    window = ReceiveWindow(10, CreditBudget())
    window.received(10)
    with pytest.raises(StreamError):
        window.received(1)


def test_new_windows_shrink_and_then_there_are_none() -> None:
    budget = CreditBudget()
    sizes = []
    while size := budget.initial_bytes():
        sizes.append(size)
        ReceiveWindow(size, budget)
    assert set(sizes) == {DEFAULT_WINDOW_BYTES, SMALL_WINDOW_BYTES}
    assert sum(sizes[: sizes.index(SMALL_WINDOW_BYTES)]) == SCARCE_BYTES
    assert sum(sizes) == budget.granted_bytes == CREDIT_BOUND_BYTES
    assert len(sizes) > 1024, "1,024 streams must fit"


def test_a_window_grows_to_the_largest_while_its_consumer_keeps_up() -> None:
    window = ReceiveWindow(DEFAULT_WINDOW_BYTES, CreditBudget())
    grants = 0
    while window.size_bytes < LARGEST_WINDOW_BYTES:
        n_bytes = window.unused_bytes
        window.received(n_bytes)
        assert window.consumed(n_bytes)
        assert window.take_credit() > 0
        grants += 1
    assert grants <= 10
    window.received(window.unused_bytes)
    window.consumed(window.held_bytes)
    window.take_credit()
    assert window.size_bytes == LARGEST_WINDOW_BYTES


def test_a_window_stays_while_its_consumer_is_behind() -> None:
    window = ReceiveWindow(1000, CreditBudget())
    window.received(1000)
    assert not window.consumed(499)
    assert window.consumed(1)
    assert window.take_credit() == 500
    assert window.size_bytes == 1000


steps = st.lists(
    st.tuples(st.sampled_from(["receive", "consume", "credit"]), st.integers(0, 600_000)),
    max_size=60,
)


@given(st.integers(1, DEFAULT_WINDOW_BYTES), steps)
def test_whatever_happens_the_parts_add_up(initial: int, steps: list[tuple[str, int]]) -> None:
    budget = CreditBudget()
    window = ReceiveWindow(initial, budget)
    granted, received = initial, 0
    for step, n_bytes in steps:
        if step == "receive":
            n_bytes = min(n_bytes, window.unused_bytes)
            window.received(n_bytes)
            received += n_bytes
        elif step == "consume":
            due = window.consumed(min(n_bytes, window.held_bytes))
            assert due == (2 * window.returnable_bytes >= window.size_bytes)
        else:
            granted += window.take_credit()
        parts = window.unused_bytes + window.held_bytes + window.returnable_bytes
        assert parts == window.size_bytes == budget.granted_bytes
        assert min(window.unused_bytes, window.held_bytes, window.returnable_bytes) >= 0
        assert received <= granted
        assert window.unused_bytes == granted - received
    window.close()
    assert budget.granted_bytes == window.held_bytes
    window.left(window.held_bytes)
    assert budget.granted_bytes == 0


def use_up(window: ReceiveWindow) -> None:
    """All that is granted comes, leaves, and is granted anew."""
    n_bytes = window.unused_bytes
    window.received(n_bytes)
    window.consumed(n_bytes)
    assert window.take_credit() > 0, "credit of nothing is an error"


def sizes_after(windows: list[ReceiveWindow], rounds: int = 40) -> list[int]:
    for _ in range(rounds):
        for window in windows:
            use_up(window)
    return [window.size_bytes for window in windows]


@pytest.mark.parametrize("count", [2, 31, 32, 60])
def test_windows_that_are_all_used_become_equal_whoever_came_first(count: int) -> None:
    budget = CreditBudget()
    first = ReceiveWindow(budget.initial_bytes(), budget)
    alone = sizes_after([first])
    assert alone == [LARGEST_WINDOW_BYTES]
    windows = [first]
    while len(windows) < count:
        windows.append(ReceiveWindow(budget.initial_bytes() or 1, budget))
        use_up(first)
    sizes = sizes_after(windows)
    assert min(sizes) * 1.1 >= max(sizes)
    assert budget.granted_bytes <= CREDIT_BOUND_BYTES
    for window in windows[1:]:
        window.close()
    assert sizes_after([first]) == [LARGEST_WINDOW_BYTES]


def test_windows_that_grew_and_stand_still_leave_the_others_theirs() -> None:
    budget = CreditBudget()
    for _ in range(200):
        window = ReceiveWindow(budget.initial_bytes(), budget)
        for _ in range(10):
            use_up(window)
        assert budget.granted_bytes <= CREDIT_BOUND_BYTES
        window.received(window.unused_bytes)  # and nobody takes it
    assert budget.initial_bytes() > 0


def test_idle_windows_do_not_keep_a_busy_one_small() -> None:
    budget = CreditBudget()
    for _ in range(40):
        ReceiveWindow(DEFAULT_WINDOW_BYTES, budget)
    busy = ReceiveWindow(DEFAULT_WINDOW_BYTES, budget)
    assert sizes_after([busy]) == [SCARCE_BYTES - 40 * DEFAULT_WINDOW_BYTES]
