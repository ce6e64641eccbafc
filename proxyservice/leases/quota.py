"""How many leases an identity and a source have, and which of them goes first.

Pure bookkeeping: O(1) for each change, equal to a recount at any time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from math import inf

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Identity, Lease, LeaseQuota, LeaseState, Owner
from proxyservice.wire import proxyservice_pb2 as pb

IPV6_PREFIX_BITS = 56
"""What providers give to one customer; the addresses in it are one source."""


def counted_source(host: str) -> str:
    """What an address counts as: itself, or the /56 of an IPv6 address.

    IPv4-mapped addresses count as IPv4, scopes are ignored, and what is no IP
    address (a unix socket, a test) counts as itself.
    """
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, IPV6_PREFIX_BITS), strict=False))


@dataclass(slots=True)
class _Tally:
    leases: int = 0
    remembered: OrderedDict[Owner, Lease] = field(default_factory=OrderedDict)  # oldest first


class LeaseCounts:
    """Counts leases by identity and by the source they are charged to.

    The key of a claimed identity includes its connection_id: net keys are public, and whoever
    states somebody else's must not use up that one's quota.
    """

    def __init__(self) -> None:
        self._tallies: dict[Hashable, _Tally] = {}

    def __len__(self) -> int:
        """How many identities and sources have leases."""
        return len(self._tallies)

    def of_identity(self, identity: Identity) -> int:
        """Leases of an identity, in any state."""
        return self._count(identity)

    def of_source(self, source: str) -> int:
        """Leases charged to a source as `counted_source` spells it."""
        return self._count(source)

    def _count(self, key: Hashable) -> int:
        tally = self._tallies.get(key)
        return 0 if tally is None else tally.leases

    def add(self, lease: Lease) -> None:
        """A lease begins."""
        for key in (lease.owner.identity, lease.charged_to):
            tally = self._tallies.setdefault(key, _Tally())
            tally.leases += 1
            if lease.state is LeaseState.REMEMBERED:
                tally.remembered[lease.owner] = lease

    def remove(self, lease: Lease) -> None:
        """A lease ends."""
        for key in (lease.owner.identity, lease.charged_to):
            tally = self._tallies[key]
            tally.leases -= 1
            tally.remembered.pop(lease.owner, None)
            if not tally.leases:
                del self._tallies[key]

    def state_changed(self, lease: Lease) -> None:
        """A lease is in another state now; the latest to be remembered goes last."""
        for key in (lease.owner.identity, lease.charged_to):
            remembered = self._tallies[key].remembered
            remembered.pop(lease.owner, None)
            if lease.state is LeaseState.REMEMBERED:
                remembered[lease.owner] = lease

    def in_the_way(self, identity: Identity, source: str, quota: LeaseQuota) -> list[Lease]:
        """The remembered leases that have to go for one more; at most two.

        Raises RefusedError when what fills the quota is in use.
        """
        going: list[Lease] = []
        if self.of_identity(identity) >= quota.per_key:
            going.append(self._oldest(identity, f"this key has {quota.per_key} leases already"))
        freed = sum(lease.charged_to == source for lease in going)
        if self.of_source(source) - freed >= quota.per_source:
            reason = f"this source address has {quota.per_source} leases already"
            oldest = self._oldest(source, reason)
            if oldest not in going:  # beyond the quota already: at least it does not grow
                going.append(oldest)
        return going

    def _oldest(self, key: Hashable, reason: str) -> Lease:
        tally = self._tallies.get(key)
        for lease in tally.remembered.values() if tally is not None else ():
            if lease.expires_at != inf:  # on a port of its own
                return lease
        raise RefusedError(pb.REFUSAL_QUOTA, reason)
