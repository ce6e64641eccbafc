"""Which port a request asks the registry for, as the node's rules have it."""

from __future__ import annotations

from collections.abc import Iterable

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.server.rules import Rules
from proxyservice.wire import proxyservice_pb2 as pb

RETRY_SECONDS = 60.0
"""A port comes back when a lease expires, or its quarantine; nobody knows when."""


def choose_port(
    registry: LeaseRegistry,
    owner: Owner,
    wanted: int | None,
    rules: Rules,
    others_own: Iterable[int],
) -> int | None:
    """The port to have, None: any. Raises RefusedError.

    ``others_own`` are the ports that belong to one entry of the policy each,
    this node's included. Where the rules name ports the first one is taken
    that can be had: as many steps as there are.
    """
    if wanted is not None:
        if not rules.allows_port(wanted):
            raise RefusedError(pb.REFUSAL_DENIED, f"port {wanted} is not one of this node's")
        if wanted != rules.port and wanted in others_own:
            reason = f"port {wanted} is taken"
            raise RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, reason)
        return wanted
    choice = rules.chosen_ports
    if choice is None:
        return None
    present = registry.port_of(owner)
    if present is not None and rules.port in (None, present) and rules.allows_port(present):
        return None
    for port in choice:
        if (port == rules.port or port not in others_own) and registry.can_have(owner, port):
            return port
    if rules.ports is None:
        return None  # its own port is taken, and it may have any other
    raise RefusedError(pb.REFUSAL_EXHAUSTED, "none of this node's ports is left", RETRY_SECONDS)
