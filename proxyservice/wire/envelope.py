"""Messages: opcodes, their payloads, what a main port accepts, how frames are made.

Works on whole frames; knows no connection and no lease (docs/protocol.md,
"Messages" and "What the main port refuses").
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from google.protobuf.message import Message as ProtoMessage

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.bounds import BOUNDS, TYPED_PAYLOAD_BYTES, check_bounds
from proxyservice.wire.compression import compress, decompress
from proxyservice.wire.framing import COMPRESSED, Frame, encode_frame
from proxyservice.wire.identity import ED25519_KEY_BYTES, verify
from proxyservice.wire.parsing import parse

INFLATED_LIMIT_BYTES = 256 * 1024
"""Largest inflated body on the main port; control messages are small."""

CONNECTION_ID_LIMIT_BYTES = BOUNDS["ID.connection_id"]
"""Deployed ids are 32 bytes; it is a key of tables here, so it must have an end."""


class Opcode(IntEnum):
    """`Message.opcode`; the names of proto/proxyservice.proto without their prefix."""

    NONE = 0
    BYTES = 1
    KEEPALIVE = 2
    KEEPALIVE_RESPONSE = 3
    PROXY_RESPONSE = 9
    PING = 10
    PONG = 11
    LOOKUP_NODE_REQUEST = 12
    LOOKUP_NODE_RESPONSE = 13
    DISCONNECT = 14
    PROXY_REQUEST = 15
    METRIC_REQUEST = 16
    METRIC_RESPONSE = 17
    ASYNC_ACK_RESPONSE = 18
    HELLO = 32
    CHALLENGE = 33
    PROOF = 34
    WELCOME = 35
    REFUSAL = 36
    RELEASE = 37
    DRAINING = 38
    STREAM_OPEN = 40
    STREAM_DATA = 41
    STREAM_WINDOW = 42
    STREAM_END = 43
    STREAM_RESET = 44


PAYLOADS: Mapping[int, type[ProtoMessage]] = {
    Opcode.BYTES: pb.Bytes,
    Opcode.KEEPALIVE: pb.Keepalive,
    Opcode.KEEPALIVE_RESPONSE: pb.KeepaliveResponse,
    Opcode.PROXY_RESPONSE: pb.ProxyResponse,
    Opcode.PING: pb.Ping,
    Opcode.PONG: pb.Pong,
    Opcode.LOOKUP_NODE_REQUEST: pb.LookupNodeRequest,
    Opcode.LOOKUP_NODE_RESPONSE: pb.LookupNodeResponse,
    Opcode.DISCONNECT: pb.Disconnect,
    Opcode.PROXY_REQUEST: pb.ProxyRequest,
    Opcode.METRIC_REQUEST: pb.MetricRequest,
    Opcode.METRIC_RESPONSE: pb.MetricResponse,
    Opcode.ASYNC_ACK_RESPONSE: pb.AsyncAckResponse,
    Opcode.HELLO: pb.Hello,
    Opcode.CHALLENGE: pb.Challenge,
    Opcode.PROOF: pb.Proof,
    Opcode.WELCOME: pb.Welcome,
    Opcode.REFUSAL: pb.Refusal,
    Opcode.RELEASE: pb.Release,
    Opcode.DRAINING: pb.Draining,
    Opcode.STREAM_OPEN: pb.StreamOpen,
    Opcode.STREAM_WINDOW: pb.StreamWindow,
    Opcode.STREAM_END: pb.StreamEnd,
    Opcode.STREAM_RESET: pb.StreamReset,
}
"""Opcode to the type of `Message.message`; StreamData carries raw bytes."""


def decode_message(frame: Frame, inflated_limit_bytes: int = INFLATED_LIMIT_BYTES) -> pb.Message:
    """Inflate and parse a frame's body. Raises FrameError."""
    body: bytes | memoryview = frame.body
    if frame.flag == COMPRESSED:
        body = decompress(frame.algorithm, body, inflated_limit_bytes)
    return parse(pb.Message, body)


def decode_main(frame: Frame, network_id: int) -> pb.Message:
    """Decode a frame of the main port and apply its acceptance rules. Raises FrameError."""
    message = decode_message(frame)
    check_main(message, network_id)
    return message


def check_main(message: pb.Message, network_id: int) -> None:
    """Apply the acceptance rules of the main port, bounds first. Raises FrameError."""
    check_bounds(message)
    sender = message.sender
    if not message.opcode:
        raise FrameError("opcode 0")
    if not message.HasField("sender"):
        raise FrameError("no sender")
    if not sender.net_key or not sender.address:
        raise FrameError("a sender without net_key or address")
    if message.netID != network_id:
        raise FrameError("netID differs")
    if message.signature and len(sender.net_key) == ED25519_KEY_BYTES:
        _check_signature(message)


def _check_signature(message: pb.Message) -> None:
    sender = message.sender
    signature, payload = message.signature, message.message
    if not verify(sender.net_key, signature, sender.address, sender.id, payload):
        raise FrameError("the signature does not verify")


def parse_payload(message: pb.Message) -> ProtoMessage:
    """Parse `Message.message` as its opcode says, within its bounds. Raises FrameError."""
    kind = PAYLOADS.get(message.opcode)
    if kind is None:
        raise FrameError(f"opcode {message.opcode} has no payload that is known")
    if len(message.message) > TYPED_PAYLOAD_BYTES:
        raise FrameError(f"a {kind.DESCRIPTOR.name} of {len(message.message)} bytes")
    payload = parse(kind, message.message)
    check_bounds(payload)
    return payload


def encode_message(
    network_id: int,
    opcode: int,
    payload: ProtoMessage | bytes = b"",
    *,
    sender: pb.ID,
    request_nonce: int = 0,
    message_nonce: int = 0,
    reply: bool = False,
    signature: bytes = b"",
    algorithm: int = 1,
    compressed: bool = False,
) -> bytes:
    """Return a whole frame; `algorithm` is stated in the header even when not used."""
    body = _encode_body(
        network_id, opcode, payload, sender, request_nonce, message_nonce, reply, signature
    )
    if compressed:
        body = bytes(compress(algorithm, body))
    return encode_frame(network_id, body, flag=int(compressed), algorithm=algorithm)


def _encode_body(
    network_id: int,
    opcode: int,
    payload: ProtoMessage | bytes,
    sender: pb.ID,
    request_nonce: int,
    message_nonce: int,
    reply: bool,
    signature: bytes,
) -> bytes:
    return pb.Message(
        message=payload if isinstance(payload, bytes) else payload.SerializeToString(),
        sender=sender,
        signature=signature,
        request_nonce=request_nonce,
        message_nonce=message_nonce,
        reply_flag=reply,
        opcode=opcode,
        netID=network_id,
    ).SerializeToString()


def encode_datagram(
    network_id: int, opcode: int, payload: ProtoMessage | bytes = b"", *, sender: pb.ID
) -> bytes:
    """Return a datagram: 2-byte big-endian length, then the Message."""
    body = _encode_body(network_id, opcode, payload, sender, 0, 0, False, b"")
    return len(body).to_bytes(2, "big") + body


def decode_datagram(datagram: bytes) -> pb.Message:
    """Parse a datagram; what follows the stated length is ignored. Raises FrameError."""
    length = int.from_bytes(datagram[:2], "big")
    if len(datagram) < 2 or length > len(datagram) - 2:
        raise FrameError("a datagram shorter than it says")
    return parse(pb.Message, datagram[2 : 2 + length])
