"""What a visitor may send: every rule, and that all ways to judge agree."""

from __future__ import annotations

from collections import Counter
from random import Random
from unittest.mock import patch

import pytest

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire import relay_rules
from proxyservice.wire.framing import encode_frame
from proxyservice.wire.parsing import parse
from proxyservice.wire.relay_check import RelayScanner
from proxyservice.wire.relay_rules import RelayRules, usual_sender, without_payload
from tests.wire.bodies import NET, SENDER, damaged, odd_body, usual_body, varint
from tests.wire.relay_plain import expected

BODIES = 30_000
FRAMES = 20_000
PAYLOAD = bytes(range(256)) * 40


def accepted(body: bytes | memoryview) -> bool:
    try:
        RelayRules(NET).check(body)
    except FrameError:
        return False
    return True


def test_rules_say_what_protobuf_says() -> None:
    random = Random(1)
    seen: Counter[bool] = Counter()
    for _ in range(BODIES):
        body = odd_body(random)
        verdict = expected(body)
        seen[verdict] += 1
        assert accepted(body) == verdict, body.hex()
    assert min(seen[True], seen[False]) > BODIES // 50, seen


def test_a_body_without_its_payload_is_judged_as_with_it() -> None:
    random = Random(2)
    cut = 0
    with patch.object(relay_rules, "_CUT_FROM_BYTES", 3):
        for _ in range(BODIES):
            body = odd_body(random)
            rest = without_payload(memoryview(body))
            cut += len(rest) < len(body)
            assert _essence(rest) == _essence(body), body.hex()
    assert cut > BODIES // 3


def _essence(body: bytes) -> tuple[object, ...] | None:
    try:
        message = parse(pb.Message, body)
    except FrameError:
        return None
    sender = message.sender.SerializeToString() if message.HasField("sender") else None
    return message.opcode, message.netID, sender, message.MessageID


@pytest.mark.parametrize("size", [4096, 65536, 1 << 20])
def test_large_payloads_are_left_out(size: int) -> None:
    body = pb.Message(message=bytes(size), sender=SENDER, opcode=1000, netID=NET)
    body.signature = bytes(2000)
    rest = without_payload(body.SerializeToString())
    assert len(rest) < 200
    assert accepted(body.SerializeToString())


def test_a_known_sender_changes_no_verdict() -> None:
    """The short way behind a known sender, and the long way of a new scanner."""
    random = Random(3)
    seen: Counter[bool] = Counter()
    scanner = primed()
    for _ in range(FRAMES):
        body = usual_body(random)
        if random.random() < 0.7:
            body = damaged(random, body)
        if not body:
            continue
        verdict = expected(body)
        seen[verdict] += 1
        assert relays(scanner, body) == verdict, body.hex()
        if not verdict:
            scanner = primed()
    assert min(seen[True], seen[False]) > FRAMES // 10, seen


@pytest.mark.heavy
def test_odd_bodies_behind_a_known_sender() -> None:
    random = Random(4)
    for _ in range(FRAMES):
        body = odd_body(random)
        if body:
            assert relays(primed(), body) == expected(body), body.hex()


def primed() -> RelayScanner:
    scanner = RelayScanner(NET, 1 << 20)
    assert relays(scanner, usual_body(Random(5)))
    return scanner


def relays(scanner: RelayScanner, body: bytes) -> bool:
    frame = encode_frame(NET, body, algorithm=2)
    try:
        return b"".join(map(bytes, scanner.feed(frame))) == frame
    except FrameError:
        return False


@pytest.mark.heavy
def test_every_short_ending_is_judged_as_protobuf_does() -> None:
    """All one- and two-byte opcodes, and each byte of the ending replaced by every value."""
    sender = b"\x12" + varint(SENDER.ByteSize()) + SENDER.SerializeToString()
    net_id = b"\x40" + varint(NET)
    bodies = [b"\x38" + varint(opcode) + net_id for opcode in range(300)]
    bodies += [b"\x38" + varint(value, by) + net_id for value in range(130) for by in (1, 2, 3, 4)]
    ending = (
        b"\x1a\x40" + bytes(64) + b"\x20\x01\x28\x81\x01\x30\x01\x38\xe8\x07" + net_id + b"\x50\x01"
    )
    for at in range(len(ending)):
        bodies += [ending[:at] + bytes((value,)) + ending[at + 1 :] for value in range(256)]
    verdicts = Counter[bool]()
    for body in bodies:
        verdict = expected(sender + body)
        verdicts[verdict] += 1
        assert relays(primed(), sender + body) == verdict, body.hex()
    assert min(verdicts.values()) > 1000


def test_no_sender_is_not_taken_for_a_known_one() -> None:
    for between in (b"", b"\0", b"\x12\0"):
        body = b"\x0a\x04abcd" + between + b"\x38\xe8\x07\x40" + varint(NET) + b"\x50\x01"
        assert not relays(RelayScanner(NET, 1 << 20), body)


def test_a_header_is_not_taken_for_a_known_sender() -> None:
    """A network id whose header reads as a sender, before a payload with an odd length."""
    address = b"\x12" + varint(len(b"tcp://h:1")) + b"tcp://h:1"
    odd = b"\x0a\x80\x00"
    network = int.from_bytes(
        bytes((0x12, 2 + 6 + len(odd) + len(address), 0x0A, 6 + len(odd))), "big"
    )
    ending = pb.Message(opcode=1000, netID=network).SerializeToString()
    tricky = encode_frame(network, odd + address + ending)
    sender = tricky[: 10 + len(odd + address)]
    scanner = RelayScanner(network, 1 << 20)
    good = encode_frame(network, sender + ending)
    assert b"".join(map(bytes, scanner.feed(good))) == good
    with pytest.raises(FrameError):
        list(scanner.feed(tricky))


def test_what_is_remembered_is_a_sender_that_is_good_alone() -> None:
    whole = SENDER.SerializeToString()
    field = b"\x12" + varint(len(whole)) + whole
    ending = b"\x38\xe8\x07\x40" + varint(NET)
    assert usual_sender(field + ending) == field
    assert usual_sender(b"\x0a\x01x" + field + ending) == field
    no_key = pb.ID(address=SENDER.address).SerializeToString()
    merged = b"\x12" + varint(len(no_key)) + no_key + field + ending
    assert expected(merged)
    assert usual_sender(merged) == b""
    assert usual_sender(ending + field) == b""


def test_fields_count_as_protobuf_counts_them() -> None:
    good = pb.Message(message=PAYLOAD, sender=SENDER, opcode=1000, netID=NET).SerializeToString()
    key, address = pb.ID(net_key=b"k"), pb.ID(address="quic://host:1")
    halves = [pb.Message(sender=half).SerializeToString() for half in (key, address)]
    rest = pb.Message(opcode=1000, netID=NET).SerializeToString()
    for body, verdict in {
        good + b"\x38\x09": False,  # the last scalar wins
        b"\x38\x09" + good: True,
        good + b"\x38\x00": False,
        good + b"\x38" + varint(2**32 + 9): False,  # cut to 32 bits
        good + b"\x40\x01": False,
        b"".join(halves) + rest: True,  # submessages merge
        b"".join(halves): False,
        halves[0] + rest: False,
        good + pb.Message(sender=pb.ID(net_key=b"PORTER_UDP_NETKEY")).SerializeToString(): False,
        good + b"\x5a\x03abc\xc2\x3e\x01x": True,  # unknown fields
        good + b"\x5b\x08\x01\x5c": True,  # an unknown group
        good + b"\x5b\x08\x01": False,
        good + b"\x5c": False,
        good + b"\x39" + bytes(8): True,  # opcode's number, another type: unknown
        good + b"\x3a\x01\x09": True,
        good + b"\x4a\x01\xff": False,  # a string that is none
        good + b"\x82\x80\x80\x80\x80\x80\x01\x00": False,  # a tag over 32 bits
        good + b"\x00\x00": False,
        good + b"\x0a\xff\xff\xff\xff\x0f": False,
        good + b"\x38" + b"\x80" * 10 + b"\x01": False,
    }.items():
        assert expected(body) is verdict, body[len(PAYLOAD) :].hex()
        assert accepted(body) is verdict, body[len(PAYLOAD) :].hex()


@pytest.mark.parametrize("build", ["groups", "senders"])
def test_deep_nesting_needs_no_stack(build: str) -> None:
    depth = 200_000
    if build == "groups":
        body = b"\x5b" * depth + b"\x5c" * depth
    else:
        body = b"".join(b"\x12" + varint(4 * n, 4 - len(varint(4 * n))) for n in range(1000, 0, -1))
    good = pb.Message(sender=SENDER, opcode=1000, netID=NET).SerializeToString()
    for attempt in (body, good + body, body + good):
        assert accepted(attempt) == expected(attempt)
        if build == "groups":
            assert not accepted(attempt)


def test_many_tiny_fields_are_left_to_protobuf_and_bounded() -> None:
    good = pb.Message(sender=SENDER, opcode=1000, netID=NET).SerializeToString()
    most = (relay_rules.BESIDE_PAYLOAD_LIMIT_BYTES - len(good)) // 2
    assert accepted(b"\x58\x01" * most + good)
    with pytest.raises(FrameError, match="beside its payload"):
        RelayRules(NET).check(b"\x58\x01" * (most + 1) + good)
    payload = b"\x0a" + varint(16 << 20) + bytes(16 << 20)
    assert accepted(payload + good)
