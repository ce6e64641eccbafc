"""Where a node has its token from, and how an operator makes one.

A file or the environment, never the command line, which every process of the
machine may read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from proxyservice.errors import StartError
from proxyservice.files import create_private
from proxyservice.node.keys import check_private, read_private
from proxyservice.text import decode_text
from proxyservice.units import parse_duration
from proxyservice.wire.tokens import TOKEN_NAME, Token

TOKEN_VARIABLE = "PROXYSERVICE_TOKEN"  # noqa: S105 - the name of one


def find_token(path: Path | None, environment: Mapping[str, str]) -> Token | None:
    """Of the file, else of the environment, else none. Raises StartError without the secret."""
    if path is not None:
        try:
            content, mode = read_private(path)
            token = Token.parse(decode_text(content))
        except OSError as error:
            raise StartError(f"cannot read token file {path}: {error.strerror}") from None
        except ValueError as error:
            raise StartError(f"token file {path}: {error}") from None
        check_private(path, mode)
        return token
    text = environment.get(TOKEN_VARIABLE)
    if not text:
        return None
    try:
        return Token.parse(text)
    except ValueError as error:
        raise StartError(f"{TOKEN_VARIABLE}: {error}") from None


def make_token(name: str, expires: str | None, wall_now: float) -> tuple[Token, str]:
    """A new token, and its line for the server's file. Raises ValueError."""
    if not (TOKEN_NAME.fullmatch(name) and name.isprintable()):
        raise ValueError(f"{name!r} is no name; one word of at most 64 characters")
    token = Token.new()
    words = [token.id.hex(), token.public_key.hex(), name]
    if expires is not None:
        end = datetime.fromtimestamp(wall_now + parse_duration(expires), timezone.utc)
        words.append(end.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return token, " ".join(words)


def write_token(path: Path, token: Token) -> None:
    """Make its file. Raises StartError, also when there is one."""
    try:
        create_private(path, token.text.encode() + b"\n")
    except OSError as error:
        raise StartError(f"cannot create token file {path}: {error.strerror}") from None
