"""Many networks, and the longest of them that an address is in: a few steps for any number.

Pure. One set of prefixes for each length that occurs: as many look-ups as there are
lengths, 33 of IPv4 and 129 of IPv6 at most, whether there are ten networks or a million.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network


class Networks:
    """Of both versions of IP; one object for each list that the operator wrote."""

    __slots__ = ("_prefixes", "count")

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        found: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        self.count = 0
        """How many were given."""
        for one in networks:
            prefix = int(one.network_address) >> (one.max_prefixlen - one.prefixlen)
            found[one.version].setdefault(one.prefixlen, set()).add(prefix)
            self.count += 1
        self._prefixes = {
            version: sorted(lengths.items(), reverse=True) for version, lengths in found.items()
        }

    def longest(self, address: IPv4Address | IPv6Address) -> int | None:
        """The length in bits of the longest network that it is in; None: it is in none."""
        value, bits = int(address), address.max_prefixlen
        for length, prefixes in self._prefixes[address.version]:
            if value >> (bits - length) in prefixes:
                return length
        return None
