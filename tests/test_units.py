"""What people write for durations, sizes and ports, and what they read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.units import (
    LARGEST_BYTES,
    LONGEST_SECONDS,
    format_duration,
    format_size,
    parse_duration,
    parse_port_range,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("3h", 10800),
        ("2d", 172800),
        ("500ms", 0.5),
        ("1h30m", 5400),
        ("1m500ms", 60.5),
        ("3650d", LONGEST_SECONDS),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("10KB", 10_000),
        ("1GiB", 1 << 30),
        ("17", 17),
        ("17B", 17),
        ("1024TiB", LARGEST_BYTES),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_port_ranges() -> None:
    assert parse_port_range("20000-29999") == range(20000, 30000)
    assert parse_port_range("1-65535") == range(1, 65536)
    assert len(parse_port_range("7-7")) == 1


ODD = [
    "",
    " ",
    "-1",
    "1 ",
    " 1",
    "1\n",
    "+1",
    "1e3",
    "1.5",
    "0x10",
    "١s",
    "٣h",
    "²",
    "1_000",
    "9" * 99,
]


@pytest.mark.parametrize(
    "text", ["15", "0s", "-1s", "1.5h", "3H", "m", "1m1h", "1s1s", "3651d", *ODD]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"^.* is (no duration; .*90s|out of range; .*3650d)"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0", "64Mib", "64 MiB", "MiB", "1K", "1025TiB", *ODD])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"^.* is (no size; .*64MiB|out of range; .*1024TiB)"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1", "0-5", "5-4", "1-65536", "1-", "-1-5", "1--5", "1:5", *ODD])
def test_no_port_ranges(text: str) -> None:
    with pytest.raises(ValueError, match=r"^.* is no port range; "):
        parse_port_range(text)


def test_the_complaint_is_one_short_line() -> None:
    for parse in (parse_duration, parse_size, parse_port_range):
        with pytest.raises(ValueError, match="is no") as caught:
            parse("a\nb" * 1000)
        assert len(str(caught.value)) < 160
        assert "\n" not in str(caught.value)


@given(st.text())
def test_nothing_but_value_error_escapes(text: str) -> None:
    for parse in (parse_duration, parse_size, parse_port_range):
        with contextlib.suppress(ValueError):
            assert parse(text)


@given(st.integers(1, int(LONGEST_SECONDS * 1000)))
def test_a_duration_reads_as_it_was_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0004, "0s"), (5400, "1h30m"), (-90.5, "-1m30s500ms"), (1e9, "11574d1h46m40s")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, 1023), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]))
def test_a_whole_size_reads_as_it_was_written(count: int, unit: str) -> None:
    assert format_size(parse_size(f"{count}{unit}")) == f"{count}{unit}"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1536, "1.5KiB"),
        ((1 << 20) - 1, "1.0MiB"),
        (1_234_567_890, "1.1GiB"),
        (5 << 50, "5120TiB"),
        (-1536, "-1.5KiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_size(size) == text
