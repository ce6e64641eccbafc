"""Whether a node may have the port that it asks for, as its rules have it."""

from __future__ import annotations

from proxyservice.errors import RefusedError
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.table import RETRY_SECONDS
from proxyservice.server.rules import Rules
from proxyservice.wire import proxyservice_pb2 as pb


def check_wish(registry: LeaseRegistry, wanted: int | None, rules: Rules) -> None:
    """Raises RefusedError when this very port is not for this node; None: it has no wish."""
    if wanted is None:
        return
    if not rules.port_choice.allows(wanted):
        reason = (
            f"port {wanted} is not one of this node's: ask for any, or the relay's operator adds "
            "it to `ports` of its entry in --policy"
        )
        raise RefusedError(pb.REFUSAL_DENIED, reason)
    if wanted != rules.port and registry.is_reserved(wanted):
        reason = f"port {wanted} is taken: ask for another, or for any"
        raise RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, reason, RETRY_SECONDS)
