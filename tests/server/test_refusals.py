"""What the log says of those who are refused: enough to see it, never as much as they like."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.logger import globalLogPublisher, textFileLogObserver

from proxyservice.server.refusals import RefusalLog


@contextmanager
def logged() -> Iterator[io.StringIO]:
    text = io.StringIO()
    observer = textFileLogObserver(text)
    globalLogPublisher.addObserver(observer)
    try:
        yield text
    finally:
        globalLogPublisher.removeObserver(observer)


def test_so_many_lines_a_second_and_then_how_many_more_there_were() -> None:
    clock = [0.0]
    refusals = RefusalLog(2.0, lambda: clock[0])
    with logged() as text:
        for number in range(1000):
            refusals.node(f"192.0.2.{number % 256}", "too many connections")
            refusals.visitor(20000, "too many visitors")
        lines = text.getvalue().splitlines()
        assert sum("refused 192.0.2." in line for line in lines) == 20, "ten seconds' worth"
        assert sum("a visitor of port 20000" in line for line in lines) == 20
        assert len(lines) == 40
        clock[0] = 0.5
        refusals.node("192.0.2.1", "again")
        refusals.node("192.0.2.1", "and again")
    more, again = text.getvalue().splitlines()[40:]
    assert "refused 980 more nodes, too many to tell" in more
    assert "refused 192.0.2.1: again" in again


def test_what_a_peer_sent_is_quoted_on_one_short_line() -> None:
    refusals = RefusalLog(100.0, lambda: 0.0)
    evil = "\x1b[2J\r\n2026-01-01 forged \u202e" + "x" * 10_000
    with logged() as text:
        refusals.node(evil, evil)
        refusals.visitor(20000, evil)
        refusals.front_end(evil)
    lines = text.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
