"""What each field may hold at most in a message to the relay, or from the relay to a node.

One table, the same as the bounds in `proto/proxyservice.proto`, and one place
that compares with it. What visitors send is not judged here: a relay passes
that on as it is (`relay_rules.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from proxyservice.errors import FrameError

KEY_BYTES: Final = 64
"""Ed25519 has 32, P-256 33: what is longer is no key, and would be kept in many tables."""

ADDRESS_BYTES: Final = 512
"""`scheme://host:port`: the longest host name has 253."""

ORIGIN_BYTES: Final = 1024
"""An origin address is a key in the store."""

LABEL_BYTES: Final = 64
"""Text for people in a list."""

REASON_BYTES: Final = 1024
"""Text for people, one line."""

RAW_DATA_BYTES: Final = 4096
"""It is echoed: several answers fit into what may wait for one node."""

PAYLOAD_BYTES: Final = 256 * 1024 + 32
"""The largest body that is taken: StreamData's payload has a bound of its own, 256 KiB, and a
payload that is read another, `TYPED_PAYLOAD_BYTES`; what is ignored may be as long as this."""

TYPED_PAYLOAD_BYTES: Final = 8 * 1024
"""A payload that is read: the longest that its fields allow has 5 KiB, the rest is for new ones."""

BESIDE_BYTES: Final = 4 * 1024
"""A Message without its payload, fields that are not known here included."""

SIGNATURE_BYTES: Final = 256
"""Ed25519 has 64; of keys of another kind nobody looks at it."""

NONCE_BYTES: Final = 32
DAY_MS: Final = 24 * 3600 * 1000
CENTURY_MS: Final = 36525 * DAY_MS
CREDIT_BYTES: Final = (1 << 31) - 1
ENUM: Final = (1 << 31) - 1
"""Values that are not known are for their reader to refuse; negative ones nobody defines."""

U32: Final = (1 << 32) - 1
U64: Final = (1 << 64) - 1
RATE: Final = 1 << 50

BOUNDS: Final[Mapping[str, int]] = {
    "ID.net_key": KEY_BYTES,
    "ID.address": ADDRESS_BYTES,
    "ID.id": KEY_BYTES,
    "ID.connection_id": KEY_BYTES,
    "ID.address2": ADDRESS_BYTES,
    "Message.message": PAYLOAD_BYTES,
    "Message.sender": 1,
    "Message.signature": SIGNATURE_BYTES,
    "Message.request_nonce": U64,
    "Message.message_nonce": U64,
    "Message.reply_flag": 1,
    "Message.opcode": U32,
    "Message.netID": U32,
    "Message.MessageID": 1024,
    "Message.need_ack": 1,
    "Bytes.data": TYPED_PAYLOAD_BYTES,
    "ProxyRequest.origin_address": ORIGIN_BYTES,
    "ProxyRequest.proxy_address": ADDRESS_BYTES,
    "ProxyRequest.mode": ENUM,
    "ProxyRequest.label": LABEL_BYTES,
    "ProxyResponse.origin_address": ORIGIN_BYTES,
    "ProxyResponse.proxy_address": ADDRESS_BYTES,
    "ProxyResponse.expires_in_ms": CENTURY_MS,
    "ProxyResponse.hold_ms": CENTURY_MS,
    "ProxyResponse.generation": U64,
    "ProxyResponse.mode": ENUM,
    "MetricRequest.send_timestamp": U64,
    "MetricRequest.raw_data": RAW_DATA_BYTES,
    "MetricResponse.send_timestamp": U64,
    "MetricResponse.raw_data": RAW_DATA_BYTES,
    "AsyncAckResponse.send_timestamp": U64,
    "AsyncAckResponse.message_id": 1024,
    "LookupNodeRequest.target": 1,
    "LookupNodeResponse.peers": 64,
    "Hello.version": U32,
    "Hello.features": U64,
    "Hello.client_nonce": NONCE_BYTES,
    "Hello.initial_window": CREDIT_BYTES,
    "Challenge.version": U32,
    "Challenge.server_nonce": NONCE_BYTES,
    "Challenge.relay_id": NONCE_BYTES,
    "Challenge.binding_type": 255,
    "Challenge.valid_for_ms": DAY_MS,
    "Proof.signature": SIGNATURE_BYTES,
    "Proof.token_id": 64,
    "Proof.token_signature": SIGNATURE_BYTES,
    "Welcome.features": U64,
    "Welcome.proved": 1,
    "Welcome.keepalive_ms": DAY_MS,
    "Welcome.lease_ttl_ms": CENTURY_MS,
    "Welcome.proved_ttl_ms": CENTURY_MS,
    "Welcome.hold_ms": CENTURY_MS,
    "Welcome.max_leases": U32,
    "Welcome.max_streams": U32,
    "Welcome.max_visitors": U32,
    "Welcome.max_frame_bytes": U32,
    "Welcome.lease_bytes_per_second": RATE,
    "Welcome.visitors_per_second": RATE,
    "Refusal.code": ENUM,
    "Refusal.reason": REASON_BYTES,
    "Refusal.retry_after_ms": DAY_MS,
    "Release.origin_address": ORIGIN_BYTES,
    "Draining.reconnect_in_ms": DAY_MS,
    "Draining.try_for_ms": DAY_MS,
    "StreamOpen.visitor_address": ADDRESS_BYTES,
    "StreamOpen.proxy_address": ADDRESS_BYTES,
    "StreamOpen.origin_address": ORIGIN_BYTES,
    "StreamOpen.initial_window": CREDIT_BYTES,
    "StreamOpen.server_window": CREDIT_BYTES,
    "StreamWindow.credit": CREDIT_BYTES,
    "StreamReset.code": ENUM,
    "StreamReset.reason": REASON_BYTES,
}
"""Of text and bytes the most bytes, of numbers the largest value, of messages how many."""

SIGNED: Final = frozenset({"MetricRequest.send_timestamp", "MetricResponse.send_timestamp",
                           "AsyncAckResponse.send_timestamp"})  # fmt: skip
"""Numbers that may be negative: somebody's clock, which is echoed."""


def check_bounds(message: Message) -> None:
    """Raises FrameError when a field of the message, or of one within it, holds too much."""
    kind = message.DESCRIPTOR.name
    for field, value in message.ListFields():
        name = f"{kind}.{field.name}"
        most = BOUNDS[name]
        if isinstance(value, str):
            is_within = len(value) <= most and len(value.encode()) <= most
        elif isinstance(value, bytes):
            is_within = len(value) <= most
        elif isinstance(value, Message):
            check_bounds(value)
            continue
        elif isinstance(value, int | float):
            is_within = 0 <= value <= most or name in SIGNED
        else:
            is_within = _check_list(value, most)
        if not is_within:
            raise FrameError(f"{name} is over {most}")


def cut_to_bounds(message: Message) -> None:
    """Of a message of our own: a number that is over its bound becomes the bound.

    Times come from the operator's options, and one of a year is as good as one of a century.
    """
    for field, value in message.ListFields():
        most = BOUNDS[f"{message.DESCRIPTOR.name}.{field.name}"]
        if isinstance(value, int) and value > most:
            setattr(message, field.name, most)


def _check_list(values: Any, most: int) -> bool:
    if len(values) > most:
        return False
    for one in values:
        check_bounds(one)
    return True
