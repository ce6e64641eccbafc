"""Node keys on disk: Ed25519, PKCS #8 in PEM, readable by their owner alone.

Whoever has the file has the address; so a file that others may read is refused
and not silently repaired. Only where a file system has no modes at all is it
taken as it is, with a warning.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.logger import Logger

from proxyservice.errors import StartError
from proxyservice.files import (
    NO_MODES,
    OTHERS_MAY,
    create_private,
    keeps_modes,
    make_private_directory,
)
from proxyservice.wire.identity import key_fingerprint

KEY_FILE_LIMIT_BYTES = 16 * 1024
"""A key file has 119 bytes; whatever is longer than this is something else."""

log = Logger()


@dataclass(frozen=True, slots=True)
class OpenedKey:
    """A key, and whether its file was made for it just now."""

    key: Ed25519PrivateKey
    is_new: bool


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes that are the node's `net_key`."""
    return key.public_key().public_bytes_raw()


def fingerprint(key: Ed25519PrivateKey) -> str:
    """`SHA256:` and the unpadded base64 of the public key's hash, as ssh prints it."""
    return key_fingerprint(public_bytes(key))


def create_key(path: Path, *, in_new_directory: bool = True) -> Ed25519PrivateKey:
    """Make a key and its file, mode 0600. Raises StartError, also when the file exists.

    ``in_new_directory``: make the directory too, mode 0700. Not for a path
    that somebody typed: a wrong one would become a new identity.
    """
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        if in_new_directory:
            make_private_directory(path.parent)
        elif not path.parent.is_dir():
            raise StartError(
                f"cannot create key file {path}: there is no directory {path.parent}; "
                "make it, or name another file with --key"
            )
        create_private(path, text)
    except OSError as error:
        raise StartError(f"cannot create key file {path}: {error.strerror}") from None
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a key file. Raises StartError with one line that says what to do."""
    try:
        content, mode = read_private(path)
        key = load_pem_private_key(content, password=None)
    except OSError as error:
        raise StartError(f"cannot read key file {path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StartError(f"{path} is no key file (Ed25519, PEM, no passphrase)") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StartError(f"{path} holds no Ed25519 key")
    check_private(path, mode)  # last: nobody is told to chmod what is no key
    return key


def read_private(path: Path) -> tuple[bytes, int]:
    """Of a secret's file its content and its mode, for `check_private`. Raises OSError."""
    with path.open("rb") as file:
        return file.read(KEY_FILE_LIMIT_BYTES), os.fstat(file.fileno()).st_mode


def check_private(path: Path, mode: int) -> None:
    """What is done about a secret that others may read too. Raises StartError.

    A warning where no mode can be set, or means nothing, as on Windows.
    """
    if os.name == "nt" or not mode & OTHERS_MAY:
        return
    if keeps_modes(path.parent):
        raise StartError(f"secret file {path} is open to others; do: chmod 600 {path}")
    log.warn("{path}: {why}", path=str(path), why=NO_MODES)


def load_or_create_key(path: Path, *, in_new_directory: bool = True) -> Ed25519PrivateKey:
    """Read the key file, or make it on first use. Raises StartError."""
    return open_key(path, in_new_directory=in_new_directory).key


def open_key(path: Path, *, in_new_directory: bool = True) -> OpenedKey:
    """As `load_or_create_key`, and tell which of the two it was."""
    if not os.path.lexists(path):
        try:
            made = create_key(path, in_new_directory=in_new_directory)
        except StartError:
            if not path.exists():
                raise
        else:
            check_private(path, path.stat().st_mode)
            return OpenedKey(made, is_new=True)
    return OpenedKey(load_key(path), is_new=False)  # of this process, or of one that was first
