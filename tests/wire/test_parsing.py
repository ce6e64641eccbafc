"""Both implementations of protobuf give one verdict on what a peer sends."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.message import Message

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.parsing import OVERLOOKS_LONG_TAGS, parse, plainly_encoded
from tests.wire.bodies import SENDER, varint
from tests.wire.verdicts import KINDS, REFUSED, bodies, verdict

BODIES = 10_000
OPCODE, SENDER_TAG, GROUP, GROUP_END = b"\x38", b"\x12", b"\xf3\x01", b"\xf4\x01"
HIDDEN = b"\x38\x01" + varint(0x38, 1) + b"\x09"


def opcode(body: bytes) -> int | None:
    """Of the message that is read, None when it is refused."""
    try:
        return parse(pb.Message, body).opcode
    except FrameError:
        return None


@pytest.mark.heavy
@pytest.mark.skipif(OVERLOOKS_LONG_TAGS, reason="only protobuf in plain Python is here")
def test_both_implementations_read_the_same() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.wire.verdicts", "1", str(BODIES)],
        env=os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    plain = run.stdout.splitlines()
    assert len(plain) == BODIES
    for (kind, body), found in zip(bodies(1, BODIES), plain, strict=True):
        assert verdict(kind, body) == found, (kind.DESCRIPTOR.name, body.hex())
    assert BODIES // 10 < plain.count(REFUSED) < BODIES * 9 // 10


def test_no_encoding_hides_an_opcode() -> None:
    assert opcode(HIDDEN) == 9


@pytest.mark.parametrize("longer_by", range(11))
def test_longer_encodings_than_need_be(longer_by: int) -> None:
    short = longer_by <= 4
    assert opcode(varint(0x38, longer_by) + b"\x05") == (5 if short else None)
    assert opcode(b"\x0a" + varint(1, longer_by) + b"x\x38\x05") == (5 if short else None)
    assert opcode(b"\xf2\x01" + varint(1, longer_by) + b"x\x38\x05") == (5 if short else None)
    assert opcode(OPCODE + varint(5, longer_by)) == (5 if longer_by <= 9 else None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xb8\x80\x80\x80\x0f\x05", 0),
        (b"\xb8\x80\x80\x80\x10\x05", None),
        (b"\x0a\x81\x80\x80\x80\x10x", None),
        (OPCODE + b"\x85\x80\x80\x80\x10", 5),
        (OPCODE + b"\x85" + b"\x80" * 8 + b"\x7f", 5),
        (OPCODE + b"\x85" + b"\x80" * 9 + b"\x01", None),
        (b"\x3a\x01\x05", 0),
        (b"\x3d\x05\0\0\0", 0),
        (b"\x3d\x05\0\0", None),
        *((bytes((kind,)) + bytes(8), None) for kind in range(8)),
        (b"\x06\x05", None),
        (b"\x07\x05", None),
    ],
)
def test_numbers_and_wire_types(body: bytes, expected: int | None) -> None:
    assert opcode(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (GROUP + GROUP_END + b"\x38\x05", 5),
        (GROUP + varint(0xF4, 1) + b"\x38\x05", 5),
        (GROUP + b"\x38\x09" + GROUP_END + b"\x38\x05", 5),
        (GROUP + b"\x00\x00" + GROUP_END + b"\x38\x05", 5),
        (GROUP + b"\x02\x01\xff" + GROUP_END + b"\x38\x05", 5),
        (b"\x3b\x3c", 0),
        (GROUP, None),
        (GROUP_END, None),
        (GROUP + b"\xfc\x01", None),
        (b"\x0b\x12\x01\x0c", None),
        (b"\x12\x01\x0c", None),
        (SENDER_TAG + b"\x02" + GROUP + GROUP_END, None),
        (GROUP * 100 + GROUP_END * 100 + b"\x38\x05", 5),
        (GROUP * 101 + GROUP_END * 101, None),
        (GROUP * 100_000, None),
    ],
)
def test_groups(body: bytes, expected: int | None) -> None:
    assert opcode(body) == expected


@pytest.mark.parametrize(("levels", "expected"), [(99, 5), (100, None)])
def test_a_sender_is_a_level_of_its_own(levels: int, expected: int | None) -> None:
    sender = GROUP * levels + GROUP_END * levels
    assert opcode(SENDER_TAG + varint(len(sender)) + sender + b"\x38\x05") == expected


@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_text_is_utf8_even_where_a_later_one_counts(text: bytes) -> None:
    field = b"\x4a" + varint(len(text)) + text
    assert opcode(field) is None
    assert opcode(field + b"\x4a\x00") is None
    assert opcode(SENDER_TAG + varint(len(field)) + b"\x12" + field[1:]) is None


def test_parts_of_a_sender_come_together() -> None:
    parts = pb.ID(net_key=b"key"), pb.ID(address="tcp://a:1", net_key=b"later")
    fields = [part.SerializeToString() for part in parts]
    body = b"".join(SENDER_TAG + varint(len(field)) + field for field in fields)
    sender = parse(pb.Message, body).sender
    assert (sender.net_key, sender.address) == (b"later", "tcp://a:1")
    assert parse(pb.Message, SENDER_TAG + b"\0").HasField("sender")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_what_is_sent_is_plainly_encoded(kind: type[Message]) -> None:
    """So nothing of it is left out, whatever types of fields there are."""
    message: Any = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.message_type is not None:
            value = getattr(message, field.name)
            (value.add() if field.is_repeated else value).CopyFrom(SENDER)
        else:
            example = {"": "text", b"": b"bytes"}.get(field.default_value, 1)
            setattr(message, field.name, example)
    body = message.SerializeToString()
    assert plainly_encoded(kind.DESCRIPTOR, body) == body
    assert parse(kind, memoryview(body)) == message
