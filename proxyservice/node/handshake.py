"""Part B's handshake, the node's half: Hello, Challenge, Proof.

It decides what to say and whether to trust; the main connection sends it.
On TLS the relay is whoever holds the certificate's key, and the proof is bound
to the connection; without TLS it is whoever was met first.
"""

from __future__ import annotations

import secrets

from proxyservice.errors import Distrust, FrameError, RefusedError, UntrustedError
from proxyservice.net.tls_transport import Channel
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.known_relays import KnownRelays
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import parse_payload
from proxyservice.wire.proof import NONCE_BYTES, proof_input, sign_proof

VERSION = 1
"""Highest version of part B spoken here."""

FEATURES = 1 << pb.FEATURE_STREAMS | 1 << pb.FEATURE_RELEASE | 1 << pb.FEATURE_DRAINING


class Handshake:
    """One per main connection that speaks part B."""

    def __init__(
        self,
        network_id: int,
        identity: NodeIdentity,
        server: str,
        known_relays: KnownRelays,
    ) -> None:
        self._network_id = network_id
        self._identity = identity
        self._server = server
        self._known_relays = known_relays
        self._client_nonce = secrets.token_bytes(NONCE_BYTES)
        self.challenged = False
        self.hello_body = b""
        """Body of the Hello frame as sent; the proof covers it."""

    def hello(self, window_bytes: int) -> pb.Hello:
        """Return the first message; ``window_bytes`` is what the server may send on any stream."""
        return pb.Hello(
            version=VERSION,
            features=FEATURES,
            client_nonce=self._client_nonce,
            initial_window=window_bytes,
        )

    def challenge_received(
        self, message: pb.Message, body: bytes, channel: Channel
    ) -> pb.Proof | None:
        """Check the relay and answer the Challenge that came in ``body``; None without a key.

        Raises FrameError, RefusedError (a version or binding we cannot speak)
        and UntrustedError.
        """
        challenge = parse_payload(message)
        assert isinstance(challenge, pb.Challenge)
        if self.challenged or len(challenge.server_nonce) != NONCE_BYTES:
            raise FrameError("a Challenge that makes no sense")
        if not 0 < challenge.version <= VERSION:
            raise RefusedError(pb.REFUSAL_UNSUPPORTED, f"version {challenge.version} offered")
        if challenge.binding_type != channel.binding_type:
            text = f"{self._server} binds the proof to another kind of connection"
            raise UntrustedError(text, Distrust.CHANNEL)
        self._check_relay(challenge.relay_id, channel)
        self.challenged = True
        key = self._identity.key
        if key is None:
            return None
        signed = proof_input(
            self._network_id,
            challenge.relay_id,
            channel.binding_type,
            channel.binding,
            challenge.server_nonce,
            self._client_nonce,
            self._identity.net_key,
            self.hello_body,
            body,
        )
        proof = pb.Proof(signature=sign_proof(key, signed))
        token = self._identity.token
        if token is not None:
            proof.token_id, proof.token_signature = token.id, token.sign(signed)
        return proof

    def _check_relay(self, relay_id: bytes, channel: Channel) -> None:
        """Raises UntrustedError when somebody else answers."""
        if not channel.key_hash:
            self._known_relays.check(self._server, relay_id)
        elif relay_id != channel.key_hash:
            raise UntrustedError(f"{self._server} is not the relay whose certificate it shows")
