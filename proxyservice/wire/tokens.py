"""Tokens: a second key, given out by the operator, that a node signs its proof with too.

A token is an identifier and an Ed25519 seed. The node has both, the server the
identifier and the public key: nothing secret lies there. No text of an error
or of `repr` holds the secret.
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TOKEN_ID_BYTES: Final = 8
TOKEN_NAME: Final = re.compile(r"[^\s#\"]{1,64}")
"""Of whom a token was given to; a word in the server's file."""

_SEED_BYTES: Final = 32
_PREFIX: Final = "pst"
_TEXT: Final = re.compile(rf"{_PREFIX}_([0-9a-f]{{16}})_([A-Za-z0-9_-]{{43}})")


@dataclass(frozen=True, slots=True)
class Token:
    """What a node shows in addition to its proof: `Proof.token_id` and `token_signature`."""

    id: bytes
    seed: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Token:
        """Make one from the system's randomness."""
        return cls(secrets.token_bytes(TOKEN_ID_BYTES), secrets.token_bytes(_SEED_BYTES))

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read what `text` gave; space around it is ignored. Raises ValueError without it."""
        match = _TEXT.fullmatch(text.strip().strip("\ufeff").strip())
        if match is None:
            raise ValueError(f"this is no token: it begins with {_PREFIX}_ and has 64 characters")
        return cls(bytes.fromhex(match[1]), base64.urlsafe_b64decode(match[2] + "="))

    @property
    def text(self) -> str:
        """The secret, as it is given to a node."""
        return f"{_PREFIX}_{self.id.hex()}_{_unpadded(self.seed)}"

    @property
    def public_key(self) -> bytes:
        """What the server knows of it, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    def sign(self, signed: bytes) -> bytes:
        """`Proof.token_signature`, 64 bytes, over a `proof_input`."""
        return self._key.sign(signed)


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
