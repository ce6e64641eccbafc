"""Text that a peer wrote, made fit to be shown: in a log, on a terminal, in an error.

Every text of a peer passes here on its way to people, and nowhere else is it cleaned.
"""

from __future__ import annotations

SHOWN_CHARACTERS = 200
"""A reason is a sentence; whatever is longer is not for people."""


def printable(text: str, most_characters: int = SHOWN_CHARACTERS) -> str:
    """The text on one line: what moves a cursor or turns text around is `?`, the rest is cut.

    `str.isprintable` knows control characters, escapes, line ends, the marks
    that reverse the direction of text, and halves of surrogate pairs.
    """
    shown = "".join(char if char.isprintable() else "?" for char in text[: most_characters + 1])
    return shown if len(shown) <= most_characters else shown[: most_characters - 3] + "..."
