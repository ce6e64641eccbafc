"""The live line: its numbers, its text, and how it keeps out of the way of other lines."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.node.progress import (
    RATE_SECONDS,
    LiveLine,
    Rates,
    Traffic,
    progress_line,
    summary_line,
)
from proxyservice.node.reminders import Reminders
from proxyservice.text import printable


class Terminal(io.StringIO):
    """What is on the screen, as far as carriage return and "erase to end" go."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines = []
        for written in self.getvalue().split("\n"):
            line = ""
            for part in written.split("\r"):
                before, erased, after = part.partition("\x1b[K")
                line = before + after + ("" if erased else line[len(part) :])
            lines.append(line)
        return lines


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_the_line_as_it_reads() -> None:
    traffic = Traffic(visitors=2, visitors_total=17, bytes_in=3 << 30, bytes_out=1024)
    assert progress_line(traffic, 1.2 * 1024**2, 17.4) == (
        "2 visitors, 17 in all; in 1.2MiB/s, 3GiB in all; out 17B/s, 1KiB in all"
    )
    assert summary_line(traffic) == "17 visitors, in 3GiB, out 1KiB"
    assert progress_line(Traffic(visitors=1), 0, 0).startswith("1 visitor, 0 in all; in 0B/s")


def test_targets_add_up() -> None:
    assert Traffic(1, 2, 3, 4) + Traffic(10, 20, 30, 40) == Traffic(11, 22, 33, 44)


def test_rates_are_means_of_the_last_seconds() -> None:
    rates = Rates()
    assert rates.update(0.0, Traffic()) == (0.0, 0.0)
    assert rates.update(1.0, Traffic(bytes_in=100, bytes_out=10)) == (100.0, 10.0)
    assert rates.update(3.0, Traffic(bytes_in=300, bytes_out=10))[0] == 100.0
    for second in range(4, 9):
        last = rates.update(float(second), Traffic(bytes_in=300, bytes_out=10))
    assert last == (0.0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1 << 40)), min_size=1, max_size=60))
def test_no_rate_is_negative_and_no_reading_is_kept_for_long(
    steps: list[tuple[float, int]],
) -> None:
    rates, now, total = Rates(), 0.0, 0
    for seconds, size in steps:
        now, total = now + seconds, total + size
        rate_in, rate_out = rates.update(now, Traffic(bytes_in=total))
        assert rate_in >= 0
        assert rate_out == 0
    assert all(then > now - RATE_SECONDS for then, _, _ in list(rates._read)[1:])


def test_lines_appear_above_the_live_line(terminal: Terminal) -> None:
    line = LiveLine(terminal)
    line.draw("1 visitor")
    line.say("connected")
    line.draw("2 visitors, and more")
    line.draw("3 visitors")
    assert terminal.screen() == ["connected", "3 visitors"]
    line.clear()
    assert terminal.screen() == ["connected", ""]


def test_nothing_is_written_while_nothing_changes(terminal: Terminal) -> None:
    line = LiveLine(terminal)
    line.draw("1 visitor")
    before = terminal.getvalue()
    line.draw("1 visitor")
    assert terminal.getvalue() == before
    line.clear()
    line.clear()
    assert terminal.getvalue() == before + "\r\x1b[K"


def test_a_line_never_wraps(terminal: Terminal) -> None:
    LiveLine(terminal).draw("x" * 500)
    assert [len(line) for line in terminal.screen()] == [79]


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_without_a_terminal_there_is_no_live_line(
    kind: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO() if kind == "pipe" else terminal
    monkeypatch.setenv("TERM", kind)
    line = LiveLine(stream)
    assert not line.shown
    line.draw("1 visitor")
    line.say("connected")
    line.clear()
    assert stream.getvalue() == "connected\n"


def test_what_a_peer_says_does_not_steer_the_terminal(terminal: Terminal) -> None:
    LiveLine(terminal).say("refused: \x1b]0;title\x07\r\nexposed 22 at evil:1")
    assert terminal.getvalue() == "refused: ?]0;title???exposed 22 at evil:1\n"
    assert printable("häßlich ok") == "häßlich ok"


def test_a_terminal_that_has_gone_is_no_error(terminal: Terminal) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    line = LiveLine(Gone())
    line.draw("1 visitor")
    line.say("connected")
    assert not line.shown


def test_reminders_come_at_once_then_now_and_then_with_a_count() -> None:
    reminders = Reminders(10.0)
    assert reminders.due("a", 0.0) == 1
    assert [reminders.due("a", float(n)) for n in range(1, 10)] == [0] * 9
    assert reminders.due("b", 9.0) == 1
    assert reminders.due("a", 10.0) == 10
    assert reminders.due("a", 11.0) == 0
    reminders.over("a")
    assert reminders.due("a", 12.0) == 1
