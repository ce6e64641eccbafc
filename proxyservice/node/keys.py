"""Node keys on disk: Ed25519, PKCS #8 in PEM, readable by their owner alone.

Whoever has the file has the address; so a file that others may read is refused
and not silently repaired.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proxyservice.errors import StartError
from proxyservice.wire.identity import key_fingerprint

KEY_FILE_LIMIT_BYTES = 16 * 1024
"""A key file has 119 bytes; whatever is longer than this is something else."""

_OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes that are the node's `net_key`."""
    return key.public_key().public_bytes_raw()


def fingerprint(key: Ed25519PrivateKey) -> str:
    """`SHA256:` and the unpadded base64 of the public key's hash, as ssh prints it."""
    return key_fingerprint(public_bytes(key))


def create_key(path: Path) -> Ed25519PrivateKey:
    """Make a key and its file, mode 0600. Raises StartError, also when the file exists."""
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)
    except OSError as error:
        raise StartError(f"cannot create key file {path}: {error.strerror}") from None
    return key


def write_private(path: Path, text: bytes) -> None:
    """Put a complete file in its place, mode 0600, or none: a reader never sees half a secret.

    Raises OSError, also when there is one.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.link(partial, path)  # fails when there is one, as rename would not
    finally:
        partial.unlink()


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a key file. Raises StartError with one line that says what to do."""
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except OSError as error:
        raise StartError(f"cannot read key file {path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StartError(f"{path} is no key file (Ed25519, PEM, no passphrase)") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StartError(f"{path} holds no Ed25519 key")
    return key


def read_private(path: Path) -> bytes:
    """Of a secret's file. Raises OSError, and StartError when others may read it too."""
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & _OTHERS_MAY:
            raise StartError(f"secret file {path} is open to others; do: chmod 600 {path}")
        return file.read(KEY_FILE_LIMIT_BYTES)


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """Read the key file, or make it on first use. Raises StartError."""
    try:
        return load_key(path) if path.exists() else create_key(path)
    except StartError:
        if not path.exists():
            raise
        return load_key(path)  # another process was first
