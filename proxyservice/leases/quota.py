"""How many leases an identity and a source have, and which of them goes first.

Pure bookkeeping: O(log n) for each change, equal to a recount at any time.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from math import inf

from proxyservice.errors import RefusedError
from proxyservice.leases.due import DueTimes
from proxyservice.leases.lease import Identity, Lease, LeaseQuota, LeaseState, Owner
from proxyservice.units import format_duration
from proxyservice.wire import proxyservice_pb2 as pb

RETRY_SECONDS = 60.0
"""A place may come at any time, when a lease is given back."""

LONGEST_RETRY_SECONDS = 600.0
"""The same may happen before the first promise ends."""

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


KNOWN = "policy"
"""What leases of keys and certificates with an entry in the policy count for: no source's quota."""


def token_pool(name: str) -> str:
    """What the leases of a token count for, whichever keys and addresses they belong to."""
    return f"token {name}"


@dataclass(slots=True)
class _Tally:
    leases: int = 0
    remembered: DueTimes[Owner] = field(default_factory=lambda: DueTimes(slack=4))
    """When each was promised until; those on a port of their own for ever."""


class LeaseCounts:
    """Counts leases by identity and by the source they are charged to, proved and claimed apart.

    The key of a claimed identity includes its connection_id: net keys are public, and whoever
    states somebody else's must not use up that one's quota.
    """

    def __init__(self) -> None:
        self._tallies: dict[Hashable, _Tally] = {}

    def __len__(self) -> int:
        """How many identities, sources and claimed net keys have leases."""
        return len(self._tallies)

    def of_identity(self, identity: Identity) -> int:
        """Leases of an identity, in any state."""
        return self._count(identity)

    def of_source(self, charged_to: str, *, proved: bool) -> int:
        """Leases of one kind charged to a source as `counted_source` spells it."""
        return self._count((charged_to, proved))

    def _count(self, key: Hashable) -> int:
        tally = self._tallies.get(key)
        return 0 if tally is None else tally.leases

    def add(self, lease: Lease) -> None:
        """A lease begins."""
        for key in _keys(lease.owner.identity, lease.charged_to):
            tally = self._tallies.setdefault(key, _Tally())
            tally.leases += 1
            if lease.state is LeaseState.REMEMBERED:
                tally.remembered.set(lease.owner, lease.promised_until)

    def remove(self, lease: Lease) -> None:
        """A lease ends."""
        for key in _keys(lease.owner.identity, lease.charged_to):
            tally = self._tallies[key]
            tally.leases -= 1
            tally.remembered.discard(lease.owner)
            if not tally.leases:
                del self._tallies[key]

    def changed(self, lease: Lease) -> None:
        """A lease has another state or another promise now."""
        for key in _keys(lease.owner.identity, lease.charged_to):
            remembered = self._tallies[key].remembered
            if lease.state is LeaseState.REMEMBERED:
                remembered.set(lease.owner, lease.promised_until)
            else:
                remembered.discard(lease.owner)

    def in_the_way(
        self, identity: Identity, charged_to: str, quota: LeaseQuota, now: float
    ) -> list[Owner]:
        """Whose remembered leases have to go for one more; at most two. Raises RefusedError.

        What is promised stays, whoever asks. One thing goes before: a claimed lease of the same
        net key and source is what this node had before it started anew, under another
        connection_id, and whoever knows the net key could claim that lease as well.
        """
        going: list[Owner] = []
        if self.of_identity(identity) >= quota.per_key:
            going.append(self._beyond_promise(identity, now, _key_is_full(quota)))
        most = quota.of_source(proved=identity.proved)
        # One that goes already may not count for this source: then the source's own goes too.
        freed = sum(owner in self._remembered((charged_to, identity.proved)) for owner in going)
        if self.of_source(charged_to, proved=identity.proved) - freed >= most:
            full = _source_is_full(charged_to, most, quota, proved=identity.proved)
            oldest = self._former_self(identity, charged_to)
            if oldest is None:
                oldest = self._beyond_promise((charged_to, identity.proved), now, full)
            if oldest not in going:  # beyond the quota already: at least it does not grow
                going.append(oldest)
        return going

    def _remembered(self, key: Hashable) -> DueTimes[Owner]:
        return self._tallies.get(key, _Tally()).remembered

    def _former_self(self, identity: Identity, charged_to: str) -> Owner | None:
        if identity.proved:
            return None
        first = self._remembered((charged_to, identity.net_key)).soonest()
        return None if first is None or first[0] == inf else first[1]

    def _beyond_promise(self, key: Hashable, now: float, full: str) -> Owner:
        """The one least recently heard. Raises RefusedError, with when there will be one."""
        first = self._remembered(key).soonest()
        if first is None or first[0] == inf:
            raise RefusedError(pb.REFUSAL_QUOTA, full, RETRY_SECONDS)
        if first[0] > now:
            left = max(1.0, first[0] - now)
            until = format_duration(round(left))
            why = f"{full}; the oldest that is not in use is promised for {until} more"
            raise RefusedError(pb.REFUSAL_QUOTA, why, min(left, LONGEST_RETRY_SECONDS))
        return first[1]


def _keys(identity: Identity, charged_to: str) -> tuple[Hashable, ...]:
    """What a lease is counted for."""
    if identity.proved:
        return identity, (charged_to, True)
    return identity, (charged_to, False), (charged_to, identity.net_key)


def _key_is_full(quota: LeaseQuota) -> str:
    return (
        f"this key has {quota.per_key} leases already, which is its quota: give one back, or the "
        f"relay's operator raises it with {quota.key_lifted_by}"
    )


def _source_is_full(charged_to: str, most: int, quota: LeaseQuota, *, proved: bool) -> str:
    name = "leases-per-source" if proved else "claimed-leases-per-source"
    lifted = f"--limit {name}=N, a token, or an entry in --policy"
    who, kind = "this source address", " of keys that are proved" if proved else " of claimed keys"
    if quota.source_lifted_by:  # of a token
        who, kind, lifted = charged_to, "", quota.source_lifted_by
    return (
        f"{who} has {most} leases{kind} already, which is its quota: give one back, or the "
        f"relay's operator raises it with {lifted}"
    )
