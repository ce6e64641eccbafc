"""Messages: the payloads of all opcodes, what a main port takes, datagrams; only FrameError."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from proxyservice.errors import FrameError, RefusedError
from proxyservice.node.messages import received
from proxyservice.server.lease_request import ORIGIN_LIMIT_BYTES, LeaseRequest
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.compression import compress
from proxyservice.wire.envelope import (
    CONNECTION_ID_LIMIT_BYTES,
    INFLATED_LIMIT_BYTES,
    PAYLOADS,
    check_main,
    decode_datagram,
    decode_message,
    encode_message,
    parse_payload,
)
from proxyservice.wire.framing import COMPRESSED, DEFAULT_NETWORK_ID, Frame, FrameDecoder
from proxyservice.wire.framing import encode_frame as framed
from proxyservice.wire.identity import signing_digest
from proxyservice.wire.parsing import parse
from tests.fuzz.ed25519 import is_valid
from tests.fuzz.golden import golden
from tests.fuzz.script import Script

NET = DEFAULT_NETWORK_ID
Answer = TypeVar("Answer")


def check(data: bytes) -> None:
    """First byte: algorithm (3 bits), flag, and whether the body is to be compressed first."""
    script = Script(data)
    kind, body = script.number(), script.rest()
    algorithm, flag = kind & 7, kind >> 3 & 1
    declared(lambda: decode_datagram(body))
    plain = body if flag != COMPRESSED else None
    if kind & 0x10 and algorithm < 6:
        plain, body = body, bytes(compress(algorithm, body))
        flag = COMPRESSED
    message = declared(lambda: decode_message(frame_of(body, flag, algorithm)))
    if plain is not None:
        assert message == declared(lambda: parse(pb.Message, plain))
    if message is not None:
        assert message.ByteSize() <= INFLATED_LIMIT_BYTES + len(body)
        check_message(message)


def frame_of(body: bytes, flag: int, algorithm: int) -> Frame:
    if not body:
        return Frame(flag, algorithm, memoryview(b""), memoryview(b""))
    raw = framed(NET, body, flag=flag, algorithm=algorithm)
    (frame,) = FrameDecoder(NET, len(body)).feed(raw)
    assert isinstance(frame, Frame)
    return frame


def declared(call: Callable[[], Answer]) -> Answer | None:
    """The only errors that the wire raises; None stands for one of them."""
    try:
        return call()
    except FrameError:
        return None


def is_accepted(message: pb.Message) -> bool:
    try:
        check_main(message, NET)
    except FrameError:
        return False
    return True


def check_message(message: pb.Message) -> None:
    sender = message.sender
    if is_accepted(message):
        assert message.opcode
        assert message.netID == NET
        assert sender.net_key
        assert sender.address
        assert len(sender.connection_id) <= CONNECTION_ID_LIMIT_BYTES
        if message.signature and len(sender.net_key) == 32:
            digest = signing_digest(sender.address, sender.id, message.message)
            assert is_valid(sender.net_key, message.signature, digest)
    declared(lambda: received(message, NET))
    declared(lambda: parse_payload(message))
    raw = encode_message(
        NET,
        message.opcode,
        message.message,
        sender=sender,
        request_nonce=message.request_nonce,
        message_nonce=message.message_nonce,
        reply=message.reply_flag,
        signature=message.signature,
    )
    again = decode_message(frame_of(raw[10:], 0, 1))
    again.MessageID, again.need_ack = message.MessageID, message.need_ack
    again.DiscardUnknownFields()
    message.DiscardUnknownFields()
    message.sender.SetInParent()
    message.netID = NET
    assert again == message
    check_payloads(message)


def check_payloads(message: pb.Message) -> None:
    """The same payload as every opcode has it."""
    for opcode in PAYLOADS:
        message.opcode = opcode
        payload: Any = declared(lambda: parse_payload(message))
        if payload is not None:
            message_again = pb.Message(opcode=opcode, message=payload.SerializeToString())
            assert parse_payload(message_again) == payload
        if isinstance(payload, pb.ProxyRequest):
            check_request(payload)


def check_request(request: pb.ProxyRequest) -> None:
    try:
        asked = LeaseRequest.part_b(request, 1)
    except (FrameError, RefusedError):
        return
    assert len(asked.origin.encode()) <= ORIGIN_LIMIT_BYTES
    assert asked.wanted_port is None or 0 <= asked.wanted_port <= 99999


def seeds() -> Iterator[bytes]:
    for frame in [*golden("tcp_"), *golden("bad_")]:
        if len(frame) > 10:
            yield bytes((frame[5] & 7 | frame[4] << 3,)) + frame[10:]
            yield bytes((frame[5] & 7 | 0x10,)) + frame[10:]
    for datagram in golden("udp_"):
        yield b"\0" + datagram
    sender = pb.ID(net_key=bytes(32), address="tcp://127.0.0.1:1")
    for opcode, payload in PAYLOADS.items():
        yield b"\0" + encode_message(NET, opcode, payload(), sender=sender)[10:]
