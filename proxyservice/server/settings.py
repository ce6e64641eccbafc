"""What the operator has chosen for one service, and what its nodes are told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from proxyservice.leases.lease import LeaseQuota, LeaseTimes
from proxyservice.server.claims import Claimed
from proxyservice.server.limits import ServiceLimits
from proxyservice.wire import proxyservice_pb2 as pb

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
"""Sources that may stand for many: a front end on this machine."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Made from the options, once; times are seconds."""

    network_id: int
    relay_id: bytes
    public_host: str = ""  # empty: the local address of the main connection
    node_address: str = ""  # empty: the accepted socket's local address
    keepalive_seconds: float = 15.0
    claimed: Claimed = Claimed.ALLOW
    quota: LeaseQuota = field(default_factory=LeaseQuota)
    trusted_sources: tuple[IPv4Network | IPv6Network, ...] = LOOPBACK
    times: LeaseTimes = field(default_factory=LeaseTimes)
    limits: ServiceLimits = field(default_factory=ServiceLimits)

    @property
    def silence_seconds(self) -> float:
        """After this long without a byte a node of part B counts as gone."""
        return self.limits.silent_keepalives * self.keepalive_seconds

    def trusts(self, source: str) -> bool:
        """Whether limits per source do not apply to this (canonical) address."""
        try:
            address = ip_address(source)
        except ValueError:
            return True  # a unix socket: somebody on this machine
        return any(address in network for network in self.trusted_sources)

    def welcome(self, features: int, quota: LeaseQuota | None, *, proved: bool) -> pb.Welcome:
        """What holds for a node, in the words of the protocol; of visitors others know more."""
        return pb.Welcome(
            features=features,
            proved=proved,
            keepalive_ms=int(self.keepalive_seconds * 1000),
            lease_ttl_ms=int(self.times.ttl * 1000),
            proved_ttl_ms=int(self.times.proved_ttl * 1000),
            hold_ms=int(self.times.hold * 1000),
            max_leases=0 if quota is None else min(quota.per_key, quota.of_source(proved=proved)),
            max_streams=self.limits.streams_per_connection,
            max_frame_bytes=self.limits.max_frame_bytes,
        )
