"""The table of a stream's life: every state with every event, and what must hold of all."""

from __future__ import annotations

from itertools import product

import pytest

from proxyservice.streams.state import TABLE, Act, Event, State

PAIRS = list(product(State, Event))
ENDS_OURS = {State.END_SENT, State.GONE}
ENDS_THEIRS = {State.END_RECEIVED, State.GONE}


def after(state: State, event: Event) -> tuple[State, Act]:
    return TABLE[state][event]


def test_every_state_has_every_event() -> None:
    assert [len(row) for row in TABLE] == [len(Event)] * len(State)


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_no_direction_opens_again(state: State, event: Event) -> None:
    new, _ = after(state, event)
    assert not (state in ENDS_OURS and new not in ENDS_OURS)
    assert not (state in ENDS_THEIRS and new not in ENDS_THEIRS)


@pytest.mark.parametrize("event", Event)
def test_a_stream_that_is_gone_hears_and_does_nothing(event: Event) -> None:
    assert after(State.GONE, event) == (State.GONE, Act.DROP)


@pytest.mark.parametrize("state", [s for s in State if s is not State.GONE])
@pytest.mark.parametrize("event", [Event.RESET, Event.SEND_RESET])
def test_a_reset_ends_it_from_any_state(state: State, event: Event) -> None:
    assert after(state, event) == (State.GONE, Act.PASS)


@pytest.mark.parametrize(
    ("state", "event", "expected"),
    [
        (State.OPEN, Event.SEND_END, (State.END_SENT, Act.PASS)),
        (State.OPEN, Event.END, (State.END_RECEIVED, Act.PASS)),
        (State.END_SENT, Event.END, (State.GONE, Act.PASS)),
        (State.END_RECEIVED, Event.SEND_END, (State.GONE, Act.PASS)),
        # data from a side that has ended is answered with Reset
        (State.END_RECEIVED, Event.DATA, (State.GONE, Act.ANSWER_RESET)),
        # credit from a side whose peer has ended is ignored
        (State.END_SENT, Event.WINDOW, (State.END_SENT, Act.DROP)),
        (State.END_SENT, Event.SEND_DATA, (State.END_SENT, Act.MISTAKE)),
        (State.END_SENT, Event.DATA, (State.END_SENT, Act.PASS)),
        (State.END_RECEIVED, Event.SEND_DATA, (State.END_RECEIVED, Act.PASS)),
        (State.END_RECEIVED, Event.WINDOW, (State.END_RECEIVED, Act.PASS)),
        (State.END_RECEIVED, Event.END, (State.END_RECEIVED, Act.DROP)),
        (State.END_SENT, Event.SEND_END, (State.END_SENT, Act.DROP)),
        (State.OPEN, Event.DATA, (State.OPEN, Act.PASS)),
        (State.OPEN, Event.WINDOW, (State.OPEN, Act.PASS)),
        (State.OPEN, Event.SEND_DATA, (State.OPEN, Act.PASS)),
    ],
)
def test_each_rule_of_the_protocol(state: State, event: Event, expected: tuple[State, Act]) -> None:
    assert after(state, event) == expected
