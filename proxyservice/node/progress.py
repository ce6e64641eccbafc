"""The live line of `proxyservice expose`: who is here, how fast, how much.

`Rates` and `progress_line` only count and write text; `LiveLine` draws, and
keeps out of the way of other lines.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from proxyservice.text import printable
from proxyservice.units import format_size

RATE_SECONDS = 3.0
"""Rates are means over so long: steady enough to read, quick enough to follow."""

REDRAW_SECONDS = 0.25

USUAL_COLUMNS = 80
ERASE_TO_END = "\x1b[K"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has passed by a moment. In is what visitors send, out is what they get."""

    visitors: int = 0
    visitors_total: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.visitors + other.visitors,
            self.visitors_total + other.visitors_total,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
        )


class Rates:
    """Bytes per second, from counts read now and then; ``now`` is monotonic seconds."""

    def __init__(self) -> None:
        self._read: deque[tuple[float, int, int]] = deque()

    def update(self, now: float, traffic: Traffic) -> tuple[float, float]:
        """Take a reading; return the rates in and out."""
        self._read.append((now, traffic.bytes_in, traffic.bytes_out))
        while len(self._read) > 2 and self._read[1][0] <= now - RATE_SECONDS:
            self._read.popleft()
        then, bytes_in, bytes_out = self._read[0]
        if now <= then:
            return 0.0, 0.0
        seconds = now - then
        return (traffic.bytes_in - bytes_in) / seconds, (traffic.bytes_out - bytes_out) / seconds


def progress_line(traffic: Traffic, rate_in: float, rate_out: float) -> str:
    """`2 visitors, 17 in all; in 1.2MiB/s, 3.4GiB in all; out 17B/s, 1KiB in all`."""
    return (
        f"{_visitors(traffic.visitors)}, {traffic.visitors_total} in all; "
        f"in {format_size(round(rate_in))}/s, {format_size(traffic.bytes_in)} in all; "
        f"out {format_size(round(rate_out))}/s, {format_size(traffic.bytes_out)} in all"
    )


def summary_line(traffic: Traffic) -> str:
    """`17 visitors, in 3.4GiB, out 1KiB`."""
    return (
        f"{_visitors(traffic.visitors_total)}, "
        f"in {format_size(traffic.bytes_in)}, out {format_size(traffic.bytes_out)}"
    )


def _visitors(count: int) -> str:
    return f"{count} visitor{'' if count == 1 else 's'}"


LONGEST_LINE_CHARACTERS = 1000
"""Beyond what any line of ours has; what a peer adds to it is cut before."""


class LiveLine:
    """The last line of a terminal, redrawn in place; other lines appear above it.

    On what is no terminal there is no live line, and the others are written as
    they are.
    """

    def __init__(self, stream: TextIO, is_idle: Callable[[], bool] = lambda: True) -> None:
        """``is_idle``: whether the stream has written everything; it must not make us wait."""
        self._stream = stream
        self._is_idle = is_idle
        self.shown = stream.isatty() and os.environ.get("TERM") != "dumb"
        """Whether there is one at all."""
        self._text = ""

    def draw(self, text: str) -> None:
        """Show this instead of what is there; while nobody reads, nothing is drawn."""
        if self.shown and text != self._text and self._is_idle():
            self._text = text
            self._write(f"\r{self._cut(text)}{ERASE_TO_END}")

    def say(self, line: str) -> None:
        """Write a line that stays."""
        self._write(self._cleared() + printable(line, LONGEST_LINE_CHARACTERS) + "\n")

    def clear(self) -> None:
        """Leave an empty line; the next `draw` fills it again."""
        erased = self._cleared()
        if erased:
            self._write(erased)

    def _cleared(self) -> str:
        erased, self._text = f"\r{ERASE_TO_END}" if self._text else "", ""
        return erased

    def _cut(self, text: str) -> str:
        """A line that wraps could not be drawn over."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns or USUAL_COLUMNS
        except OSError:
            columns = USUAL_COLUMNS
        return text[: columns - 1]

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self.shown = False  # whoever looked has gone; that is no reason to end
