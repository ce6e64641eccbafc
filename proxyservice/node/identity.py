"""Who a node says it is in the frames it sends.

With a key the node can prove it; without, it claims a random net_key that
lives as long as the object. Knows no connection.
"""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.node.keys import public_bytes
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.identity import connection_id, node_id
from proxyservice.wire.tokens import Token

NET_KEY_BYTES = 32

FIRST_ADDRESS = "tcp://127.0.0.1:1"
"""What a node calls itself before it has a proxy address. It enters connection_id,
which must stay the same for the life of a key; so it is a constant by default."""


class NodeIdentity:
    """A key, or a claimed net_key, and what follows from it."""

    def __init__(
        self,
        key: Ed25519PrivateKey | None = None,
        net_key: bytes | None = None,
        first_address: str = FIRST_ADDRESS,
        token: Token | None = None,
    ) -> None:
        self.key = key
        self.token = token
        """Shown with each proof, to relays that want one."""
        if key is not None:
            net_key = public_bytes(key)
        self.net_key = net_key or secrets.token_bytes(NET_KEY_BYTES)
        self._id = node_id(self.net_key)
        self._connection_id = connection_id(self.net_key, first_address)
        self.sender = self._sender(first_address)
        """Goes into every frame; its address is the proxy address once there is one."""

    def reached_at(self, proxy_address: str) -> None:
        """The node has a proxy address (`host:port`): from here on that is what it is called."""
        self.sender = self._sender("tcp://" + proxy_address)

    def _sender(self, address: str) -> pb.ID:
        return pb.ID(
            net_key=self.net_key,
            address=address,
            id=self._id,
            connection_id=self._connection_id,
        )
