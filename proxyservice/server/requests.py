"""What nodes say on a main connection, opcode by opcode, and what follows from it.

Tables and functions: what is in no table is ignored. Each function gets the
connection it was said on; a FrameError from it ends that connection. When it
ends, and how it is answered, is `main.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from proxyservice.errors import FrameError, RefusedError
from proxyservice.leases.lease import Identity
from proxyservice.net.tls_transport import channel_of, client_names
from proxyservice.server.access import NOBODY
from proxyservice.server.handshake import Handshake
from proxyservice.server.lease_request import LeaseRequest
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, parse_payload
from proxyservice.wire.framing import HEADER_BYTES
from proxyservice.wire.work import SIGNATURE_UNITS

_ECHO_SLACK_BYTES = 256
"""A compressed question may be so much shorter than its echo."""

if TYPE_CHECKING:
    from proxyservice.server.main import MainConnection

    Hear = Callable[[MainConnection, pb.Message], None]


def hello(node: MainConnection, message: pb.Message, body: bytes) -> None:
    """The first frame, and then part B is spoken; ``body`` is its own, as it came."""
    settings = node.factory.settings
    channel = channel_of(node.transport)
    handshake = Handshake(settings.network_id, settings.relay_id, channel, message, body)
    node.handshake = handshake
    frame = node.answer(Opcode.CHALLENGE, handshake.challenge())
    handshake.challenged(frame[HEADER_BYTES:], node.factory.now())


def heard_in(opcode: int, *, part_b: bool) -> Hear | None:
    """The function for a message in one of the two parts of the protocol; None: ignore it."""
    hear = _IN_BOTH_PARTS.get(opcode)
    return _IN_PART_B.get(opcode) if hear is None and part_b else hear


def _proof(node: MainConnection, message: pb.Message) -> None:
    assert node.handshake is not None, "only part B has proofs"
    if node.identity is not None:
        raise FrameError("a Proof after the identity was settled")
    try:
        shown = client_names(node.transport)
        access, now = node.factory.access, node.factory.now()
        node.charge(SIGNATURE_UNITS)
        node.identified(node.handshake.prove(message, now, access, shown))
    except RefusedError as error:
        node.refuse(error)


def _keepalive(node: MainConnection, message: pb.Message) -> None:
    _check_identity(node, message.sender)
    if _hears_keepalives(node):
        _answer_in_order(node, partial(_answer_keepalive, node))


def _hears_keepalives(node: MainConnection) -> bool:
    return node.leases.any or (node.handshake is not None and node.identity is not None)


def _answer_keepalive(node: MainConnection) -> None:
    """By now its request may have been refused, or wait for a port."""
    if _hears_keepalives(node):
        node.answer(Opcode.KEEPALIVE_RESPONSE)


def _metric(node: MainConnection, message: pb.Message) -> None:
    """Echo it to who is known here; not to who has more sent back than came (compressed)."""
    if node.identity is None or len(message.message) > node.heard_bytes + _ECHO_SLACK_BYTES:
        return
    request = cast("pb.MetricRequest", parse_payload(message))
    answer = pb.MetricResponse(send_timestamp=request.send_timestamp, raw_data=request.raw_data)
    nonce = message.request_nonce
    respond = partial(node.answer, Opcode.METRIC_RESPONSE, answer, nonce)
    _answer_in_order(node, respond, len(request.raw_data))


def _answer_in_order(node: MainConnection, answer: Callable[[], object], n_bytes: int = 0) -> None:
    """Answer now, or after the lease that is being stored; the answer keeps so many bytes."""
    if node.leases.pending:
        node.leases.after_grant(answer, n_bytes)
    else:
        answer()


def _proxy_request(node: MainConnection, message: pb.Message) -> None:
    request = cast("pb.ProxyRequest", parse_payload(message))
    sender = message.sender
    if node.identity is None and not _claims(node, sender):
        return
    _check_identity(node, sender)
    if node.handshake is None:
        try:
            node.leases.request(LeaseRequest.part_a(request))
        except RefusedError as error:
            node.refuse(error)
        return
    if not message.request_nonce:
        raise FrameError("a ProxyRequest without request_nonce")
    try:
        node.leases.request(LeaseRequest.part_b(request, message.request_nonce))
    except RefusedError as error:
        node.refuse_request(error, message.request_nonce)


def _claims(node: MainConnection, sender: pb.ID) -> bool:
    """A ProxyRequest without a proof before it: whether that is enough here."""
    try:
        node.factory.settings.claimed.check(node.source)
        node.factory.access.check(NOBODY)
    except RefusedError as error:
        node.refuse(error)
        return False
    node.identified(Identity(False, sender.net_key, sender.connection_id))
    return True


def _check_identity(node: MainConnection, sender: pb.ID) -> None:
    identity = node.identity
    if identity is None:
        return
    if sender.net_key != identity.net_key:
        raise FrameError("a second net_key on one connection")
    if not identity.proved and sender.connection_id != identity.connection_id:
        raise FrameError("a second connection_id on one connection")


def _release(node: MainConnection, message: pb.Message) -> None:
    release = cast("pb.Release", parse_payload(message))
    if node.identity is None or not message.request_nonce:
        raise FrameError("a Release without identity or request_nonce")
    _check_identity(node, message.sender)
    node.leases.release(release.origin_address, message.request_nonce)


_IN_BOTH_PARTS: dict[int, Hear] = {
    Opcode.KEEPALIVE: _keepalive,
    Opcode.PROXY_REQUEST: _proxy_request,
    Opcode.METRIC_REQUEST: _metric,
}

_IN_PART_B: dict[int, Hear] = {
    Opcode.PROOF: _proof,
    Opcode.RELEASE: _release,
}
