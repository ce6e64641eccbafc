"""A fuzzer's input read as choices and numbers, with zeros where it has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Script:
    """Reads on from where the last one stopped; true while bytes are left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    def __bool__(self) -> bool:
        return self._pos < len(self._data)

    def number(self, n_bytes: int = 1) -> int:
        """A big-endian number of so many bytes."""
        return int.from_bytes(self.take(n_bytes).ljust(n_bytes, b"\0"), "big")

    def choice(self, options: Sequence[T]) -> T:
        """One of at most 256."""
        return options[self.number() % len(options)]

    def take(self, n_bytes: int) -> bytes:
        """The next bytes, fewer at the end."""
        self._pos += n_bytes
        return self._data[self._pos - n_bytes : self._pos]

    def sizes(self) -> list[int]:
        """How to cut something: up to 31 sizes of up to 255 bytes, none of them 0."""
        return [self.number() or 1 for _ in range(self.number() % 32)]

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self._data))


def pieces(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Cut into pieces of these sizes, and what is left."""
    pos = 0
    for size in sizes:
        yield data[pos : pos + size]
        pos += size
    yield data[pos:]
