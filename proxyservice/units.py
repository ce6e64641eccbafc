"""Durations, sizes and port ranges as people write them: parse and print.

Knows text and numbers, nothing of options or logs. Whatever is not
understood is a `ValueError` of one line that says what is expected instead.
"""

from __future__ import annotations

import re

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
"""Largest first: the order in which a duration is written."""

_DECIMAL_UNITS = ("KB", "MB", "GB", "TB")
_BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB")
_BYTES = {"": 1, "B": 1}
_BYTES.update((unit, 1000**power) for power, unit in enumerate(_DECIMAL_UNITS, 1))
_BYTES.update((unit, 1024**power) for power, unit in enumerate(_BINARY_UNITS, 1))

LONGEST_SECONDS = 10 * 365 * 86400.0
"""Ten years: beyond what anybody means, within what every clock and column holds."""

LARGEST_BYTES = 1 << 50
"""1024 TiB: beyond every memory and file here, within a signed 64-bit column."""

_DURATION = re.compile("".join(f"(?:([0-9]{{1,12}}){unit})?" for unit in _MILLISECONDS))
_SIZE = re.compile(f"([0-9]{{1,16}})({'|'.join(_BYTES)})")
_PORT_RANGE = re.compile("([0-9]{1,5})-([0-9]{1,5})")
_SHOWN_CHARACTERS = 40


def parse_duration(text: str) -> float:
    """`90s`, `15m`, `3h`, `2d`, `500ms` or `1h30m`, in seconds; above 0. Raises ValueError."""
    expected = "write it with its unit, as 90s, 15m, 3h, 2d or 500ms"
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{_shown(text)} is no duration; {expected}")
    counts = (int(count or 0) for count in match.groups())
    seconds = sum(map(int.__mul__, counts, _MILLISECONDS.values())) / 1000
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError(f"{_shown(text)} is out of range; from 1ms to 3650d")
    return seconds


def format_duration(seconds: float) -> str:
    """As `parse_duration` reads it, to the millisecond: 5400 is `1h30m`; 0 is `0s`.

    Takes any finite number; what is below 0 reads `-1h30m`.
    """
    rest = abs(round(seconds * 1000))
    if not rest:
        return "0s"
    words = ["-"] if seconds < 0 else []
    for unit, milliseconds in _MILLISECONDS.items():
        count, rest = divmod(rest, milliseconds)
        words += [f"{count}{unit}"] if count else []
    return "".join(words)


def parse_size(text: str) -> int:
    """`64MiB`, `10KB` (10,000 bytes) or plain bytes; above 0. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{_shown(text)} is no size; write it as 64MiB, 10KB, 1GiB or a number of bytes"
        )
    size_bytes = int(match[1]) * _BYTES[match[2]]
    if not 0 < size_bytes <= LARGEST_BYTES:
        raise ValueError(f"{_shown(text)} is out of range; from 1 byte to 1024TiB")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """`64MiB`, `17B`, else rounded: `1.5KiB`; `parse_size` reads whole numbers back."""
    value, unit = float(size_bytes), "B"
    for larger in _BINARY_UNITS:
        if abs(value) < 1023.95:  # from there on it would be printed as 1024.0
            break
        value, unit = value / 1024, larger
    return f"{value:.0f}{unit}" if value.is_integer() else f"{value:.1f}{unit}"


def parse_port_range(text: str) -> range:
    """`20000-29999`, lowest and highest, both inclusive. Raises ValueError."""
    match = _PORT_RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{_shown(text)} is no port range; write it as 20000-29999")
    low, high = int(match[1]), int(match[2])
    if not 0 < low <= high < 65536:
        raise ValueError(f"{_shown(text)} is no port range; from 1 to 65535, the lower port first")
    return range(low, high + 1)


def _shown(text: str) -> str:
    """What was typed, on one line and cut where it is too long for one."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
