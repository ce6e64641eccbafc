"""The proof of a key: what is signed, and which keys nobody may prove.

A proof is bound to one relay, one connection and one handshake by what goes
into `proof_input`; that a nonce is fresh and used once is for its connection
to see to. A token signs the same bytes. Shape: docs/protocol.md, "Proof".
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from proxyservice.errors import FrameError
from proxyservice.wire.identity import ED25519_KEY_BYTES

NONCE_BYTES: Final = 32
RELAY_ID_BYTES: Final = 32
BINDING_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

NO_BINDING: Final = bytes(BINDING_BYTES)
"""The binding of a connection without TLS."""

_CONTEXT: Final = b"proxyservice-auth-v1\0"
_ROLE_NODE: Final = b"\x01"
_TOP_BIT: Final = 0x80
_UINT32_BYTES: Final = 4


class Binding(IntEnum):
    """What ties a proof to its connection; `Challenge.binding_type`."""

    NONE = 0
    TLS_EXPORTER = 1  # RFC 9266: EXPORTER-Channel-Binding, empty context, 32 bytes


def _small_order() -> frozenset[bytes]:
    eighth = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
    other_eighth = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
    minus_one, p, p_plus_one = (bytes((low,)) + b"\xff" * 30 + b"\x7f" for low in b"\xec\xed\xee")
    zero, one = bytes(ED25519_KEY_BYTES), b"\x01".ljust(ED25519_KEY_BYTES, b"\0")
    eighths = (bytes.fromhex(eighth), bytes.fromhex(other_eighth))
    return frozenset((zero, one, *eighths, minus_one, p, p_plus_one))


_SMALL_ORDER: Final = _small_order()
"""Every encoding of a point whose order divides 8, with the top bit cleared: for such
a key anybody can make a signature that OpenSSL accepts."""


def is_small_order(key: bytes) -> bool:
    """Whether these 32 bytes are one of the 14 keys for which anybody can sign."""
    if len(key) != ED25519_KEY_BYTES:
        return False
    return key[:-1] + bytes((key[-1] & ~_TOP_BIT,)) in _SMALL_ORDER


def proof_input(
    network_id: int,
    relay_id: bytes,
    binding_type: int,
    binding: bytes,
    server_nonce: bytes,
    client_nonce: bytes,
    net_key: bytes,
    hello_body: bytes | memoryview,
    challenge_body: bytes | memoryview,
) -> bytes:
    """Return the bytes that a node signs; the bodies are those of the frames as sent.

    Raises FrameError when a part has not its length: the parts stand side by
    side without separators, so only fixed lengths keep them apart.
    """
    expected = (RELAY_ID_BYTES, BINDING_BYTES, NONCE_BYTES, NONCE_BYTES, ED25519_KEY_BYTES)
    parts = (relay_id, binding, server_nonce, client_nonce, net_key)
    if tuple(map(len, parts)) != expected or binding_type not in tuple(Binding):
        raise FrameError("a handshake with parts of other lengths or kinds than a proof covers")
    return b"".join(
        (
            _CONTEXT,
            network_id.to_bytes(_UINT32_BYTES, "big"),
            _ROLE_NODE,
            relay_id,
            bytes((binding_type,)),
            binding,
            server_nonce,
            client_nonce,
            net_key,
            sha256(hello_body).digest(),
            sha256(challenge_body).digest(),
        )
    )


def sign_proof(private_key: Ed25519PrivateKey, signed: bytes) -> bytes:
    """`Proof.signature` (or `Proof.token_signature`), 64 bytes, over a `proof_input`."""
    return private_key.sign(signed)


def verify_proof(net_key: bytes, signature: bytes, signed: bytes) -> bool:
    """Whether the owner of that key signed; false for keys that prove nothing."""
    if len(net_key) != ED25519_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    if is_small_order(net_key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(net_key).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True
