"""The life of a stream at one end, as a table: state and event to the next state and what to do.

Everything that can happen stands here, once (docs/protocol.md, "Life of a stream").
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class State(IntEnum):
    """Which of the two directions are still open."""

    OPEN = 0
    END_SENT = 1
    END_RECEIVED = 2
    GONE = 3


class Event(IntEnum):
    """What happens to a stream: three things that this side does, four that the peer says."""

    SEND_DATA = 0
    SEND_END = 1
    SEND_RESET = 2
    DATA = 3
    WINDOW = 4
    END = 5
    RESET = 6


class Act(IntEnum):
    """What follows from an event."""

    PASS = 0
    """Do it, or hand it to the local end."""
    DROP = 1
    """Nothing: it came too late to matter."""
    ANSWER_RESET = 2
    """The peer speaks after its own End: reset the stream, and tell the local end."""
    MISTAKE = 3
    """This side must not do that now."""


_S, _A = State, Act

TABLE: Final[tuple[tuple[tuple[State, Act], ...], ...]] = (
    (  # OPEN
        (_S.OPEN, _A.PASS),  # SEND_DATA
        (_S.END_SENT, _A.PASS),  # SEND_END
        (_S.GONE, _A.PASS),  # SEND_RESET
        (_S.OPEN, _A.PASS),  # DATA
        (_S.OPEN, _A.PASS),  # WINDOW
        (_S.END_RECEIVED, _A.PASS),  # END
        (_S.GONE, _A.PASS),  # RESET
    ),
    (  # END_SENT
        (_S.END_SENT, _A.MISTAKE),  # SEND_DATA
        (_S.END_SENT, _A.DROP),  # SEND_END
        (_S.GONE, _A.PASS),  # SEND_RESET
        (_S.END_SENT, _A.PASS),  # DATA
        (_S.END_SENT, _A.DROP),  # WINDOW: there is nothing left to send
        (_S.GONE, _A.PASS),  # END
        (_S.GONE, _A.PASS),  # RESET
    ),
    (  # END_RECEIVED
        (_S.END_RECEIVED, _A.PASS),  # SEND_DATA
        (_S.GONE, _A.PASS),  # SEND_END
        (_S.GONE, _A.PASS),  # SEND_RESET
        (_S.GONE, _A.ANSWER_RESET),  # DATA
        (_S.END_RECEIVED, _A.PASS),  # WINDOW
        (_S.END_RECEIVED, _A.DROP),  # END, twice
        (_S.GONE, _A.PASS),  # RESET
    ),
    (  # GONE
        (_S.GONE, _A.DROP),  # SEND_DATA: the local end has not heard yet
        (_S.GONE, _A.DROP),  # SEND_END
        (_S.GONE, _A.DROP),  # SEND_RESET
        (_S.GONE, _A.DROP),  # DATA
        (_S.GONE, _A.DROP),  # WINDOW
        (_S.GONE, _A.DROP),  # END
        (_S.GONE, _A.DROP),  # RESET
    ),
)
"""`TABLE[state][event]`; a state that is GONE is also what an ended id amounts to."""
