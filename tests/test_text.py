"""What a peer wrote does nothing to a terminal or a log."""

from __future__ import annotations

import pytest

from proxyservice.text import SHOWN_CHARACTERS, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("no port is left", "no port is left"),
        ("größer", "größer"),
        ("\x1b[2Jgone", "?[2Jgone"),
        ("two\nlines\r", "two?lines?"),
        ("\u202eevil", "?evil"),
        ("half \ud800", "half ?"),
        ("nul\0", "nul?"),
    ],
)
def test_one_line_without_a_will_of_its_own(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("length", [SHOWN_CHARACTERS, SHOWN_CHARACTERS + 1, 32 * 1024 * 1024])
def test_it_is_short(length: int) -> None:
    shown = printable("x" * length)
    assert len(shown) <= SHOWN_CHARACTERS
    assert shown.endswith("...") == (length > SHOWN_CHARACTERS)
