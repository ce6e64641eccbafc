"""Who is let in, as files of the operator say now; asked at each use, not at login alone.

Knows no connection: it says what holds for a `Caller`, and when to ask again.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twisted.logger import Logger

from proxyservice.errors import StartError
from proxyservice.server.tokens import KnownToken, Tokens
from proxyservice.wire import proxyservice_pb2 as pb

log = Logger()


@dataclass(frozen=True, slots=True)
class Caller:
    """What a node has shown of itself."""

    token: KnownToken | None = None


NOBODY = Caller()
"""A node that claims who it is, and one that was not asked for more than its proof."""


class Access:
    """The operator's files; ``wall`` is the wall clock, by which tokens end.

    Raises StartError for a file that cannot be used.
    """

    def __init__(
        self, token_file: Path | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._token_file = token_file
        self._wall = wall
        self._tokens = None if token_file is None else Tokens.read(token_file)
        self._looked_at = wall()

    @property
    def wants_tokens(self) -> bool:
        """A proof is not enough here."""
        return self._tokens is not None

    def reload(self) -> None:
        """Use what the files hold now; one that is bad changes nothing but the log."""
        if self._token_file is None:
            return
        try:
            self._tokens = Tokens.read(self._token_file)
        except StartError as error:
            log.error("the old tokens stay in use: {error}", error=error)
        else:
            log.info(
                "{count} tokens were read from {path}",
                count=len(self._tokens.known),
                path=self._token_file,
            )

    def admit(self, proof: pb.Proof, signed: bytes) -> Caller:
        """What a Proof over these bytes shows beside its key. Raises RefusedError."""
        if self._tokens is None:
            return NOBODY
        return Caller(self._tokens.verify(proof, signed, self._wall()))

    def check(self, caller: Caller) -> None:
        """Whether who was let in still would be. Raises RefusedError."""
        if self._tokens is not None and caller.token is not None:
            self._tokens.check(caller.token, self._wall())

    def has_ended(self) -> bool:
        """Whether a token has ended since this was asked last: then callers are to be checked."""
        before, self._looked_at = self._looked_at, self._wall()
        if self._tokens is None:
            return False
        ends = self._tokens.ends
        return bisect_right(ends, before) != bisect_right(ends, self._looked_at)
