"""PEM files of certificates and keys, as OpenSSL takes them; every error names its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import crypto

from proxyservice.errors import StartError


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What one end of TLS shows, and the key that belongs to it."""

    certificate: crypto.X509
    intermediates: list[crypto.X509]  # up to an authority that others know
    key: crypto.PKey


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a file, one at least. Raises StartError."""
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise StartError(f"{path} holds no certificate in PEM") from None


def read_key_pair(chain: Path, key: Path) -> KeyPair:
    """A certificate, those behind it, and its key. Raises StartError."""
    own, *others = read_certificates(chain)
    try:
        private = load_pem_private_key(_read(key), password=None)
    except TypeError:
        raise StartError(f"{key} is encrypted; nobody can be asked for its passphrase") from None
    except ValueError:
        raise StartError(f"{key} holds no private key in PEM") from None
    if private.public_key() != own.public_key():
        raise StartError(f"{key} is not the key of {chain}")
    return KeyPair(
        crypto.X509.from_cryptography(own),
        [crypto.X509.from_cryptography(one) for one in others],
        crypto.PKey.from_cryptography_key(cast("crypto._Key", private)),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from None
