"""What a node has asked on its main connection and not heard back about."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from google.protobuf.message import Message as ProtoMessage
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from proxyservice.errors import FrameError, ProxyServiceError, UnreachableError

REPLY_SECONDS = 10.0
"""A request that is not answered for so long means a relay that does not work."""


class PendingRequests:
    """Of one main connection. Part A numbers nothing: there an answer is the oldest request's."""

    def __init__(self, clock: Any, *, numbered: bool, late: Callable[[UnreachableError], None]):
        """``late`` is told when an answer does not come; the request has failed by then."""
        self._clock = clock
        self._numbered = numbered
        self._late = late
        self._nonces = count(1)
        self._pending: dict[int, tuple[int, Deferred[ProtoMessage]]] = {}
        self.last_nonce = 0
        """Number of the request that came last."""

    def add(self, answer: int) -> Deferred[ProtoMessage]:
        """One more, with number `last_nonce`; fires with the payload of the answer (opcode)."""
        self.last_nonce = next(self._nonces)
        asked: Deferred[ProtoMessage] = Deferred()
        self._pending[self.last_nonce] = answer, asked
        return asked.addTimeout(REPLY_SECONDS, self._clock, self._no_answer)

    def _no_answer(self, result: Any, timeout_seconds: float) -> Failure:
        error = UnreachableError(f"no answer within {timeout_seconds:g} seconds")
        self._late(error)
        return Failure(error)

    def answered(self, nonce: int, opcode: int, payload: ProtoMessage) -> None:
        """An answer to something, or to nothing that is known here.

        Raises FrameError for one of another kind than was asked for.
        """
        if not self._numbered:
            nonce = next(iter(self._pending), 0)
        if nonce not in self._pending:
            return
        answer, asked = self._pending[nonce]
        if opcode != answer:
            raise FrameError(f"opcode {opcode} in answer to request {nonce}")
        del self._pending[nonce]
        if not asked.called:
            asked.callback(payload)

    def refused(self, nonce: int, error: ProxyServiceError) -> bool:
        """False where nothing is pending under this number."""
        _, asked = self._pending.pop(nonce, (0, None))
        if asked is not None and not asked.called:
            asked.errback(Failure(error))
        return asked is not None

    def fail_all(self, error: ProxyServiceError) -> None:
        """No answer will come any more."""
        pending, self._pending = self._pending, {}
        for _, asked in pending.values():
            if not asked.called:
                asked.errback(Failure(error))
