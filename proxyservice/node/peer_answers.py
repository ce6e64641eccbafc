"""What a node says back to its peers by itself: Pong, KeepaliveResponse, AsyncAckResponse.

Deployed nodes ask for these, and give a peer up that stays silent: after 30
seconds without a Pong, and a message without its acknowledgement is sent again
for ten seconds. An answer goes where the message says its sender is reached, as
any message does. That is the sender's word, which may be a lie, so an answer is
never worth much work: see the bounds here and in `peers.py`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from proxyservice.errors import UnreachableError
from proxyservice.node.dial import split_host_port
from proxyservice.node.messages import Received
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode

ANSWERS_A_SECOND, ANSWERS_AT_ONCE = 2.0, 10.0
"""To one address, of Pong and KeepaliveResponse: deployed nodes ask every 3 seconds."""

MESSAGE_ID_BYTES = 256
"""A longer MessageID is not acknowledged: an answer must not be large because a question was."""

FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 5.0, 300.0
"""An address that could not be reached is left alone for so long, doubling with each failure."""

ADDRESSES = 1024
"""So many are remembered with their rates and failures; the least recently used is forgotten."""

Answer = tuple[int, bytes, int]
"""opcode, payload, request_nonce (0: it is no reply to a numbered request)"""

_ASKED_BACK: dict[int, int] = {
    Opcode.PING: Opcode.PONG,
    Opcode.KEEPALIVE: Opcode.KEEPALIVE_RESPONSE,
}


class _Address:
    """What is known of one address."""

    __slots__ = ("failures", "filled_at", "level", "not_before")

    def __init__(self, now: float) -> None:
        self.level, self.filled_at = ANSWERS_AT_ONCE, now
        self.failures = 0
        self.not_before = now


class PeerAnswers:
    """Of one node. ``send(address, opcode, payload, request_nonce)`` fails where nobody is."""

    def __init__(
        self,
        send: Callable[[str, int, bytes, int], Deferred[None]],
        clock: Any,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._send = send
        self._clock = clock
        self._wall = wall
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self.dropped = 0
        """Answers that were due and were not given."""

    def heard(self, message: Received, own_address: str | None) -> None:
        """Answer a peer's message if it asks for something; never fails."""
        answers = list(self._due(message))
        if not answers:
            return
        address = _dialled(message)
        if address is None or address == own_address:
            self.dropped += len(answers)
            return
        known = self._known(address)
        for opcode, payload, request_nonce in answers:
            if not self._may_answer(known, opcode):
                self.dropped += 1
                continue
            sent = self._send(address, opcode, payload, request_nonce)
            sent.addCallbacks(self._reached, self._failed, (known,), {}, (known,), {})

    def _due(self, message: Received) -> Iterator[Answer]:
        opcode = _ASKED_BACK.get(message.opcode)
        if opcode is not None:
            yield opcode, b"", message.request_nonce
        message_id = message.message_id
        if message_id and message.opcode != Opcode.ASYNC_ACK_RESPONSE:
            if len(message_id.encode()) > MESSAGE_ID_BYTES:
                self.dropped += 1
                return
            second = int(self._wall()) % 60  # what deployed nodes write; nobody reads it
            ack = pb.AsyncAckResponse(send_timestamp=second, message_id=message_id)
            yield Opcode.ASYNC_ACK_RESPONSE, ack.SerializeToString(), 0

    def _known(self, address: str) -> _Address:
        known = self._addresses.setdefault(address, _Address(self._clock.seconds()))
        self._addresses.move_to_end(address)
        if len(self._addresses) > ADDRESSES:
            self._addresses.popitem(last=False)
        return known

    def _may_answer(self, known: _Address, opcode: int) -> bool:
        now = self._clock.seconds()
        if now < known.not_before:
            return False
        if opcode == Opcode.ASYNC_ACK_RESPONSE:
            return True  # one for each message that came; what may wait is bounded in bytes
        level = known.level + (now - known.filled_at) * ANSWERS_A_SECOND
        known.level, known.filled_at = min(ANSWERS_AT_ONCE, level), now
        if known.level < 1:
            return False
        known.level -= 1
        return True

    def _reached(self, result: None, known: _Address) -> None:
        known.failures = 0

    def _failed(self, failure: Failure, known: _Address) -> None:
        failure.trap(UnreachableError)
        self.dropped += 1
        now = self._clock.seconds()
        if now < known.not_before:
            return  # several waited for the same connection: that is one failure
        rest_seconds = FIRST_REST_SECONDS * 2.0 ** min(known.failures, 16)
        known.not_before = now + min(LONGEST_REST_SECONDS, rest_seconds)
        known.failures += 1


def _dialled(message: Received) -> str | None:
    """Where the sender says it is, if a TCP connection can be made to it."""
    scheme, separator, address = message.sender.address.partition("://")
    if scheme != "tcp" or not separator:
        return None
    try:
        split_host_port(address)
    except ValueError:
        return None
    return address
