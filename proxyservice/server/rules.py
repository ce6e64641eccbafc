"""What a node may do here: one frozen answer, made from the policy for each caller."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from ipaddress import ip_address

from proxyservice.leases.lease import PortChoice
from proxyservice.leases.port_set import PortSet
from proxyservice.server.networks import Networks
from proxyservice.wire import proxyservice_pb2 as pb


@dataclass(frozen=True, slots=True)
class Rules:
    """None: nothing is said, and the service's own limits hold."""

    admit: bool | None = None
    leases: int | None = None
    port: int | None = None  # this node's own, always, and nobody else's
    ports: PortSet | None = None
    modes: frozenset[int] | None = None
    visitors: int | None = None  # open, of each lease
    visitors_per_second: float | None = None  # new, of each lease
    bytes_per_second: int | None = None  # of each lease, both directions together
    visitor_allow: Networks | None = None
    visitor_deny: Networks | None = None
    keys: frozenset[str] | None = None  # fingerprints of the only keys that may use this entry

    def over(self, default: Rules) -> Rules:
        """These, and for what they do not say the default's."""
        unsaid = {
            field.name: getattr(default, field.name)
            for field in fields(self)
            if getattr(self, field.name) is None
        }
        return replace(self, **unsaid)

    def allows_mode(self, mode: int) -> bool:
        """Whether a lease may carry this (`MODE_MESSAGES`, `MODE_STREAMS`)."""
        return self.modes is None or mode in self.modes

    @property
    def port_choice(self) -> PortChoice:
        """Where its leases may be."""
        return PortChoice(self.port, self.ports)

    def allows_visitor(self, host: str) -> bool:
        """Whether a visitor from this canonical address may come; the longest network decides."""
        if self.visitor_allow is None and self.visitor_deny is None:
            return True
        address = ip_address(host)
        allowed = None if self.visitor_allow is None else self.visitor_allow.longest(address)
        denied = None if self.visitor_deny is None else self.visitor_deny.longest(address)
        if allowed is None and denied is None:
            return self.visitor_allow is None
        return denied is None or (allowed is not None and allowed > denied)


ANYTHING = Rules()


MODES = {"messages": int(pb.MODE_MESSAGES), "streams": int(pb.MODE_STREAMS)}
"""As the policy's file calls them."""
