"""Part B's handshake, the server's half: Hello, Challenge, Proof.

Decides who a node is; the main connection sends. Knows no transport, and the
clock only as an argument (docs/protocol.md, "Handshake").
"""

from __future__ import annotations

import secrets
from typing import cast

from proxyservice.errors import FrameError, RefusedError
from proxyservice.leases.lease import Identity
from proxyservice.net.tls_transport import Channel
from proxyservice.server.access import NOBODY, Access
from proxyservice.streams.windows import CREDIT_LIMIT
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import parse_payload
from proxyservice.wire.identity import key_fingerprint
from proxyservice.wire.proof import NONCE_BYTES, proof_input, verify_proof

VERSION = 1
"""Highest version of part B spoken here."""

FEATURES = 1 << pb.FEATURE_STREAMS | 1 << pb.FEATURE_RELEASE | 1 << pb.FEATURE_DRAINING

PROOF_SECONDS = 10.0
"""How long a Challenge can be answered: a slow phone on a slow network manages."""

EVERYBODY = Access()
"""No file says who may come in."""


class Handshake:
    """One per main connection that begins with Hello. Raises FrameError for a bad one."""

    def __init__(
        self, network_id: int, relay_id: bytes, channel: Channel, hello: pb.Message, body: bytes
    ) -> None:
        said = cast("pb.Hello", parse_payload(hello))
        if not said.version or len(said.client_nonce) != NONCE_BYTES:
            raise FrameError("a Hello without version or client_nonce")
        self.features = said.features & FEATURES
        self.window_bytes = said.initial_window
        if self.speaks(pb.FEATURE_STREAMS) and not 0 < self.window_bytes <= CREDIT_LIMIT:
            raise FrameError(f"a Hello with an initial window of {self.window_bytes} bytes")
        self._version = min(said.version, VERSION)
        self._network_id = network_id
        self._relay_id = channel.key_hash or relay_id
        self._channel = channel
        self._net_key = hello.sender.net_key
        self._client_nonce = said.client_nonce
        self._hello_body = body
        self._challenge_body = b""
        self._server_nonce = secrets.token_bytes(NONCE_BYTES)
        self._valid_until = 0.0
        self.caller = NOBODY

    def speaks(self, feature: pb.Feature) -> bool:
        """Whether both sides can do it."""
        return bool(self.features >> feature & 1)

    def challenge(self) -> pb.Challenge:
        """What to answer the Hello."""
        return pb.Challenge(
            version=self._version,
            server_nonce=self._server_nonce,
            relay_id=self._relay_id,
            binding_type=self._channel.binding_type,
            valid_for_ms=int(PROOF_SECONDS * 1000),
        )

    def challenged(self, body: bytes, now: float) -> None:
        """The Challenge went out in this body; from here on its nonce can be used, once."""
        self._challenge_body = body
        self._valid_until = now + PROOF_SECONDS

    def prove(
        self,
        message: pb.Message,
        now: float,
        access: Access = EVERYBODY,
        certificates: tuple[str, ...] = (),
    ) -> Identity:
        """Check a Proof, and what else ``access`` wants of a node with such a certificate.

        Raises RefusedError; whatever the outcome, there is no second try.
        """
        proof = cast("pb.Proof", parse_payload(message))
        in_time, self._valid_until = now < self._valid_until, 0.0
        signed = proof_input(
            self._network_id,
            self._relay_id,
            self._channel.binding_type,
            self._channel.binding,
            self._server_nonce,
            self._client_nonce,
            self._net_key,
            self._hello_body,
            self._challenge_body,
        )
        if message.sender.net_key != self._net_key:
            raise RefusedError(pb.REFUSAL_UNAUTHENTICATED, "the proof is of another key than Hello")
        if not in_time:
            raise RefusedError(pb.REFUSAL_UNAUTHENTICATED, "the proof came too late")
        if not verify_proof(self._net_key, proof.signature, signed):
            raise RefusedError(pb.REFUSAL_UNAUTHENTICATED, "the proof does not verify")
        key = key_fingerprint(self._net_key)
        self.caller = access.admit(key, proof, signed, certificates)
        return Identity(True, self._net_key)
