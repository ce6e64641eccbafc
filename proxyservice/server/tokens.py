"""The tokens that a service accepts: a file of identifiers and public keys, read again on SIGHUP.

One token a line: identifier (16 hex digits), public key (64 hex digits), the
name of whom it was given to, and, if it ends, when (2027-01-31, or with
T12:00:00Z; UTC). A name may stand in several lines, so that a token can be
replaced before it ends. `#` begins a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from math import inf
from pathlib import Path

from proxyservice.errors import RefusedError, StartError
from proxyservice.text import decode_text
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.proof import verify_proof
from proxyservice.wire.tokens import TOKEN_ID_BYTES, TOKEN_NAME

TOKEN_FILE_LIMIT_BYTES = 16 << 20
"""More than 100,000 tokens."""

NOBODYS_KEY = b"\x58" + 31 * b"\x66"
"""The curve's base point; its secret is of no use, for there is no token of it."""

_KEY_HEX_DIGITS = 64


@dataclass(frozen=True, slots=True)
class KnownToken:
    """One line; ``ends`` is a time of the wall clock, in seconds since 1970."""

    id: bytes
    public_key: bytes
    name: str
    ends: float = inf


@dataclass(frozen=True, slots=True)
class Tokens:
    """All tokens of a file, by identifier; ``ends`` has when they do, in order."""

    known: dict[bytes, KnownToken]
    ends: list[float]
    names: dict[str, float]
    """When the last token of each name ends."""

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Raises StartError with one line that names the file and the line in it."""
        try:
            with path.open("rb") as file:
                text = file.read(TOKEN_FILE_LIMIT_BYTES + 1)
        except OSError as error:
            raise StartError(f"cannot read {path}: {error.strerror}") from None
        if len(text) > TOKEN_FILE_LIMIT_BYTES:
            raise StartError(f"{path} is no token file: over {TOKEN_FILE_LIMIT_BYTES >> 20} MiB")
        try:
            lines = decode_text(text).splitlines()
        except ValueError as error:
            raise StartError(f"{path}: {error}") from None
        known: dict[bytes, KnownToken] = {}
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            try:
                token = _token(words) if words else None
                if token is not None and token.id in known:
                    raise ValueError("this identifier stood there before")
            except ValueError as error:
                raise StartError(f"{path}, line {number}: {error}") from None
            if token is not None:
                known[token.id] = token
        names: dict[str, float] = {}
        for token in known.values():
            names[token.name] = max(token.ends, names.get(token.name, 0.0))
        return cls(known, sorted(token.ends for token in known.values()), names)

    def ends_of(self, name: str) -> float | None:
        """When the last token of this name ends; None: it has none."""
        return self.names.get(name)

    def verify(self, proof: pb.Proof, signed: bytes, wall_now: float) -> KnownToken:
        """The token that signed these bytes. Raises RefusedError."""
        if not proof.token_id:
            raise _refused("this relay wants a token: --token FILE")
        token = self.known.get(proof.token_id)
        key = NOBODYS_KEY if token is None else token.public_key  # either takes the same time
        if not verify_proof(key, proof.token_signature, signed) or token is None:
            raise _refused(f"the token is not one of this relay: {NEW_ONE}")
        self.check(token, wall_now)
        return token

    def check(self, token: KnownToken, wall_now: float) -> None:
        """Whether a token that was good still is. Raises RefusedError."""
        now = self.known.get(token.id)
        if now is None or now.public_key != token.public_key:
            raise _refused(f"the token was revoked: {NEW_ONE}")
        if wall_now >= now.ends:
            raise _refused(f"the token has expired: {NEW_ONE}")


NEW_ONE = "ask the relay's operator for a new one, and name it with --token FILE"


def _refused(reason: str) -> RefusedError:
    return RefusedError(pb.REFUSAL_UNAUTHENTICATED, reason)


def _token(words: list[str]) -> KnownToken:
    """Raises ValueError."""
    if len(words) not in (3, 4):
        raise ValueError("expected: IDENTIFIER PUBLIC-KEY NAME [EXPIRES]")
    token_id, key = _hex(words[0], 2 * TOKEN_ID_BYTES), _hex(words[1], _KEY_HEX_DIGITS)
    if not TOKEN_NAME.fullmatch(words[2]):
        raise ValueError("a name has at most 64 characters and no quotes")
    return KnownToken(token_id, key, words[2], _time(words[3]) if len(words) == 4 else inf)


def _hex(word: str, digits: int) -> bytes:
    if not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", word):
        raise ValueError(f"expected {digits} hex digits")  # what it is may be a secret
    return bytes.fromhex(word)


def _time(word: str) -> float:
    try:
        moment = datetime.fromisoformat(word.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{word!r} is no time; write 2027-01-31 or 2027-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()
