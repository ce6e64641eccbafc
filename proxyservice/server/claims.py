"""From where a node may claim who it is, without proof: `--claimed`."""

from __future__ import annotations

from enum import Enum
from ipaddress import ip_address

from proxyservice.errors import RefusedError
from proxyservice.net.addresses import is_private
from proxyservice.wire import proxyservice_pb2 as pb


class Claimed(Enum):
    """Whoever knows a claimed identity, and every peer does, can claim it too."""

    ALLOW = "allow"
    LOCAL = "local"  # from private networks and this machine
    DENY = "deny"

    def check(self, source: str) -> None:
        """Raises RefusedError when a node at this canonical address has to prove its key."""
        if self is Claimed.DENY or (self is Claimed.LOCAL and not _is_local(source)):
            reason = "here a node has to prove its key, as the relay's --claimed says"
            raise RefusedError(pb.REFUSAL_UNAUTHENTICATED, reason)


def _is_local(source: str) -> bool:
    try:
        ip_address(source)
    except ValueError:
        return True  # a unix socket: somebody on this machine
    return is_private(source)
