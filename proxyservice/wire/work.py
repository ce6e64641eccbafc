"""What it costs to read what a peer sent, in units of about 10 ns on one core of a small server.

Frames, bytes after inflation and protobuf fields, added up in one number. Knows
neither turns nor connections: who has how much is `net/turns.py`'s.
"""

from __future__ import annotations

from typing import Final

FRAME_UNITS: Final = 4000
"""One frame that is read, acted upon and answered: 40 us."""

STREAM_PIECE_UNITS: Final = 1000
"""One piece of StreamData handed on: 10 us, nearly all of it the `send`."""

GRANT_UNITS: Final = 40_000
"""One request that the registry has to decide, beyond its frame: 0.4 ms."""

SIGNATURE_UNITS: Final = 20_000
"""One signature that is verified, or made: 0.2 ms."""

BODY_UNITS: Final = 800
"""One body of a visitor that protobuf has to judge: 8 us."""

LOOK_UNITS: Final = 200
"""One body of which no more than the beginning is looked at: 2 us."""

LZW_BYTE_UNITS: Final = 30
"""One byte of LZW looked at: 0.3 us."""

PIECE_UNITS: Final = 800
"""One call of zlib with a few KiB, and the beginning of a gzip member."""

FIELD_UNITS: Final = 2
"""One field of a message, the smallest of which has 2 bytes: 20 ns for whatever is in it."""


def body_units(n_bytes: int) -> int:
    """To parse a plain body of this size, which may be nothing but the smallest fields."""
    return n_bytes + n_bytes // 2 * FIELD_UNITS


def take_any(units: int) -> bool:
    """Of whoever has no budget: all of it, now."""
    return True
