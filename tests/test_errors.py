"""What our errors say is one short line, whatever a peer has put into it."""

from __future__ import annotations

import inspect

import pytest

from proxyservice import errors
from proxyservice.errors import LONGEST_CHARACTERS, ProxyServiceError, RefusedError

HOSTILE = [
    "\x1b]0;title\x07",
    "a\r\nforged line",
    "\u202etxt.exe",
    "\x9b2J",
    "\ud800",
    "x" * 100_000,
    "\u2028",
]
KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, ProxyServiceError)
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_every_error_is_one_short_printable_line(kind: type[ProxyServiceError], text: str) -> None:
    error = RefusedError(3, text) if kind is RefusedError else kind(text)
    for said in (str(error), getattr(error, "reason", "")):
        assert said.isprintable()
        assert len(said) <= LONGEST_CHARACTERS


def test_what_is_printable_stays_as_it_is() -> None:
    assert str(ProxyServiceError("größe in /srv/東京")) == "größe in /srv/東京"
    assert str(ProxyServiceError()) == ""
