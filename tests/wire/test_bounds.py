"""Each field of a message to the relay, or from it, has a bound: one table, which docs repeat."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.bounds import (
    BESIDE_BYTES,
    BOUNDS,
    SIGNED,
    TYPED_PAYLOAD_BYTES,
    U32,
    U64,
    check_bounds,
    cut_to_bounds,
)
from proxyservice.wire.envelope import PAYLOADS, check_main, parse_payload
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.conftest import VECTORS

TOP = Path(__file__).parents[2]
SIZED = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
WHOLE = (1, U32, U64)
"""Bounds that a type has by itself."""

SENDER = pb.ID(net_key=bytes(32), address="tcp://h:1")


def fields() -> Iterator[tuple[str, FieldDescriptor]]:
    for kind in pb.DESCRIPTOR.message_types_by_name.values():
        for field in kind.fields:
            yield f"{kind.name}.{field.name}", field


def said(name: str, field: FieldDescriptor) -> str:
    """How the contract words a bound; empty where it is that of the type."""
    most = BOUNDS[name]
    if field.type not in SIZED and (field.type == FieldDescriptor.TYPE_ENUM or most in WHOLE):
        return ""
    unit = " bytes" if field.type in SIZED else ""
    unit = " of them" if field.type == FieldDescriptor.TYPE_MESSAGE else unit
    return f"{most:,}{unit}"


def test_every_field_has_a_bound_and_nothing_else_has() -> None:
    assert set(BOUNDS) == {name for name, _ in fields()}


def test_the_contract_says_the_bounds() -> None:
    told: dict[str, str] = {}
    kind = before = ""
    for line in (TOP / "proto" / "proxyservice.proto").read_text().splitlines():
        if match := re.match(r"message (\w+)", line):
            kind = match[1]
        if match := re.match(r"  (?:repeated )?\w+ (\w+) = \d+;", line):
            bound = re.fullmatch(r"  // At most (.*)\.", before)
            told[f"{kind}.{match[1]}"] = bound[1] if bound else ""
        before = line
    assert {name: said(name, field) for name, field in fields()} == {
        name: told[name] for name, _ in fields()
    }


def test_the_protocol_says_the_bounds() -> None:
    text = (TOP / "docs" / "protocol.md").read_text().partition("### Bounds of fields")[2]
    told = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert told == {name: words for name, field in fields() if (words := said(name, field))}


def holding(name: str, field: FieldDescriptor, amount: int) -> Any:
    """A message with so much in this field."""
    message = getattr(pb, name.partition(".")[0])()
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        for _ in range(amount):
            getattr(message, field.name).add()
        return message
    kind = {FieldDescriptor.TYPE_STRING: "x", FieldDescriptor.TYPE_BYTES: b"x"}.get(field.type)
    setattr(message, field.name, kind * amount if kind else amount)
    return message


@pytest.mark.parametrize(
    ("name", "field"), [*fields()], ids=lambda part: getattr(part, "name", part)
)
def test_a_field_may_hold_its_bound_and_no_more(name: str, field: FieldDescriptor) -> None:
    most = BOUNDS[name]
    if name in SIGNED or (field.type not in SIZED and most in WHOLE):
        return  # the type itself is the bound
    check_bounds(holding(name, field, most))
    is_enum = field.type == FieldDescriptor.TYPE_ENUM
    over = holding(name, field, -1 if is_enum else most + 1)
    with pytest.raises(FrameError, match=re.escape(name)):
        check_bounds(over)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0])
def test_a_rate_is_a_number(rate: float) -> None:
    with pytest.raises(FrameError):
        check_bounds(pb.Welcome(visitors_per_second=rate))


def test_text_is_measured_in_bytes() -> None:
    with pytest.raises(FrameError, match="label"):
        check_bounds(pb.ProxyRequest(label="ü" * 33))
    check_bounds(pb.ProxyRequest(label="ü" * 32))


def test_a_message_within_a_message_is_looked_into() -> None:
    message = pb.Message(opcode=2, sender=pb.ID(net_key=bytes(65), address="a"))
    with pytest.raises(FrameError, match=r"ID\.net_key"):
        check_main(message, DEFAULT_NETWORK_ID)
    peers = pb.LookupNodeResponse(peers=[SENDER, pb.ID(id=bytes(65))])
    with pytest.raises(FrameError, match=r"ID\.id"):
        check_bounds(peers)


@pytest.mark.parametrize("opcode", PAYLOADS)
def test_a_payload_that_is_read_is_short_whatever_is_in_it(opcode: int) -> None:
    unknown = b"\xfa\x7f\0" * (TYPED_PAYLOAD_BYTES // 3)
    message = pb.Message(opcode=opcode, message=unknown)
    parse_payload(message)
    message.message += unknown
    with pytest.raises(FrameError):
        parse_payload(message)


def test_what_deployed_nodes_say_is_within_the_bounds() -> None:
    """All golden messages, good ones and those that are refused for something else."""
    seen = 0
    for entry in VECTORS.values():
        data = bytes.fromhex(entry["hex"])
        if not entry["name"].startswith("tcp_") or len(data) <= 10 or data[4] == 1:
            continue
        message = pb.Message.FromString(data[10:])
        message.ClearField("message")
        check_bounds(message)
        assert message.ByteSize() <= BESIDE_BYTES
        seen += 1
    assert seen > 5


@pytest.mark.parametrize(
    ("own", "field"),
    [
        (pb.Refusal(retry_after_ms=40 * 24 * 3600 * 1000, reason="r"), "Refusal.retry_after_ms"),
        (pb.Draining(try_for_ms=1 << 60), "Draining.try_for_ms"),
        (pb.Welcome(keepalive_ms=(1 << 32) - 1), "Welcome.keepalive_ms"),
    ],
)
def test_what_we_say_ourselves_is_within_the_bounds(own: Message, field: str) -> None:
    with pytest.raises(FrameError):
        check_bounds(own)
    cut_to_bounds(own)
    check_bounds(own)
    assert getattr(own, field.partition(".")[2]) == BOUNDS[field]
