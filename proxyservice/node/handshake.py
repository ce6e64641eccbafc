"""Part B's handshake, the node's half: Hello, Challenge, Proof.

It decides what to say and whether to trust; the main connection sends it.
Binding type 1 (TLS) fits in where `NO_BINDING` is used.
"""

from __future__ import annotations

import secrets

from proxyservice.errors import FrameError, RefusedError
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.known_relays import KnownRelays
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import parse_payload
from proxyservice.wire.proof import NO_BINDING, NONCE_BYTES, Binding, proof_input, sign_proof

VERSION = 1
"""Highest version of part B spoken here."""

FEATURES = 1 << pb.FEATURE_STREAMS | 1 << pb.FEATURE_RELEASE | 1 << pb.FEATURE_DRAINING


class Handshake:
    """One per main connection that speaks part B."""

    def __init__(
        self, network_id: int, identity: NodeIdentity, server: str, known_relays: KnownRelays
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

    def challenge_received(self, message: pb.Message, body: bytes) -> pb.Proof | None:
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
        if challenge.binding_type != Binding.NONE:
            raise RefusedError(pb.REFUSAL_UNSUPPORTED, "the relay wants TLS")
        self._known_relays.check(self._server, challenge.relay_id)
        self.challenged = True
        key = self._identity.key
        if key is None:
            return None
        signed = proof_input(
            self._network_id,
            challenge.relay_id,
            Binding.NONE,
            NO_BINDING,
            challenge.server_nonce,
            self._client_nonce,
            self._identity.net_key,
            self.hello_body,
            body,
        )
        return pb.Proof(signature=sign_proof(key, signed))
