"""The name of this relay, which nodes pin at first use: the hash of a secret kept in its state."""

from __future__ import annotations

import os
import secrets
from hashlib import sha256
from pathlib import Path

from proxyservice.errors import StartError
from proxyservice.files import create_private
from proxyservice.ownership import open_own

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
    try:
        with os.fdopen(open_own(path, os.O_RDONLY, secret=True), "rb") as file:
            return file.read(SECRET_BYTES + 1)
    except FileNotFoundError:
        secret = secrets.token_bytes(SECRET_BYTES)
        create_private(path, secret)
        return secret
