"""A set of ports as one whole number, a bit for each: what two sets share is one operation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PortSet:
    """Ports from 0 to 65535. What is asked of it takes microseconds, however many there are."""

    bits: int = 0

    @classmethod
    def of(cls, ports: Iterable[int]) -> PortSet:
        """These ports, one by one."""
        marks = bytearray(1 << 13)
        for port in ports:
            marks[port >> 3] |= 1 << (port & 7)
        return cls(int.from_bytes(marks, "little"))

    @classmethod
    def of_ranges(cls, ranges: Iterable[range]) -> PortSet:
        """All ports of ranges without gaps."""
        bits = 0
        for one in ranges:
            bits |= ((1 << len(one)) - 1) << one.start
        return cls(bits)

    def __contains__(self, port: int) -> bool:
        return bool(self.bits >> port & 1)

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __repr__(self) -> str:
        return f"<{len(self)} ports from {self.lowest()} on>"

    def lowest(self) -> int | None:
        """The lowest port; None when there is none."""
        return (self.bits & -self.bits).bit_length() - 1 if self.bits else None

    def __and__(self, other: PortSet) -> PortSet:
        return PortSet(self.bits & other.bits)

    def __sub__(self, other: PortSet) -> PortSet:
        return PortSet(self.bits & ~other.bits)

    def with_port(self, port: int) -> PortSet:
        """Return the same with one port more."""
        return PortSet(self.bits | 1 << port)

    def without(self, port: int) -> PortSet:
        """Return the same without the port."""
        return PortSet(self.bits & ~(1 << port))
