"""Ids and signatures of the deployed protocol.

A signature identifies and does not authenticate: it covers no nonce and can be
replayed (docs/protocol.md, "Identity").
"""

from __future__ import annotations

import struct
from base64 import b64encode
from hashlib import blake2b, sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519_KEY_BYTES = 32
HASH_BYTES = 32


def blake2b_256(data: bytes) -> bytes:
    """BLAKE2b with a 32-byte digest and no key."""
    return blake2b(data, digest_size=HASH_BYTES).digest()


def node_id(net_key: bytes) -> bytes:
    """`ID.id` of a key."""
    return blake2b_256(net_key)


def key_fingerprint(net_key: bytes) -> str:
    """`SHA256:` and the unpadded base64 of a public key's hash, as ssh prints it."""
    return "SHA256:" + b64encode(sha256(net_key).digest()).decode().rstrip("=")


def connection_id(net_key: bytes, first_address: str) -> bytes:
    """`ID.connection_id`; fixed for the life of a node, whatever its address becomes."""
    return blake2b_256(net_key + first_address.encode())


def signing_input(address: str, id_: bytes, message: bytes) -> bytes:
    """LE32(len address), address, LE32(len id), id, payload; little-endian here alone."""
    encoded = address.encode()
    return b"".join(
        (struct.pack("<I", len(encoded)), encoded, struct.pack("<I", len(id_)), id_, message)
    )


def signing_digest(address: str, id_: bytes, message: bytes) -> bytes:
    """The 32 bytes that are signed."""
    return blake2b_256(signing_input(address, id_, message))


def sign(key: Ed25519PrivateKey, address: str, id_: bytes, message: bytes) -> bytes:
    """`Message.signature`, 64 bytes."""
    return key.sign(signing_digest(address, id_, message))


def verify(net_key: bytes, signature: bytes, address: str, id_: bytes, message: bytes) -> bool:
    """Whether the signature is that key's; false for keys that are no Ed25519 point."""
    try:
        public = Ed25519PublicKey.from_public_bytes(net_key)
        public.verify(signature, signing_digest(address, id_, message))
    except (InvalidSignature, ValueError):
        return False
    return True
