"""The name of this relay, which nodes pin at first use: the hash of a secret kept in its state."""

from __future__ import annotations

import os
import secrets
from hashlib import sha256
from pathlib import Path

from proxyservice.errors import StartError

SECRET_FILE = "relay.secret"  # noqa: S105 - a file name
SECRET_BYTES = 32


def relay_id(directory: Path) -> bytes:
    """SHA-256 of the secret in `directory`, which is made at the first start. Raises StartError."""
    path = directory / SECRET_FILE
    try:
        secret = _read_or_make(path)
    except OSError as error:
        raise StartError(f"cannot read or create {path}: {error.strerror}") from None
    if len(secret) != SECRET_BYTES:
        raise StartError(
            f"{path} does not hold {SECRET_BYTES} bytes; restore it, or remove it and have "
            "every node pin this relay anew"
        )
    return sha256(secret).digest()


def _read_or_make(path: Path) -> bytes:
    if path.exists():
        return path.read_bytes()
    secret = secrets.token_bytes(SECRET_BYTES)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)
    return secret
