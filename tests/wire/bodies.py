"""Protobuf as nobody sane writes it: random fields, odd encodings, damage."""

from __future__ import annotations

from random import Random

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.framing import DEFAULT_NETWORK_ID

NET = DEFAULT_NETWORK_ID
SENDER = pb.ID(
    net_key=bytes(range(32)),
    address="tcp://127.0.0.1:60001",
    id=bytes(range(32, 64)),
    connection_id=bytes(range(64, 96)),
)


def varint(value: int, longer_by: int = 0) -> bytes:
    """The shortest encoding, or one that is longer by so many bytes."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(longer_by):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def usual_body(random: Random, payload_bytes: int | None = None) -> bytes:
    """What nodes send: an application message with nonces, sometimes signed."""
    size = (
        random.choice((0, 1, 12, 127, 128, 300, 5000)) if payload_bytes is None else payload_bytes
    )
    return pb.Message(
        message=random.randbytes(size),
        sender=SENDER,
        signature=random.randbytes(random.choice((0, 0, 64))),
        request_nonce=random.choice((0, 1, 127, 128, 2**63 - 1, 2**64 - 1)),
        message_nonce=random.choice((0, 1, 300, 70000)),
        reply_flag=random.random() < 0.2,
        opcode=random.choice((1, 2, 10, 17, 64, 127, 128, 1000, 2**32 - 1)),
        netID=NET,
        MessageID=random.choice(("", "", "id")),
        need_ack=random.random() < 0.2,
    ).SerializeToString()


def odd_field(random: Random, depth: int = 0) -> bytes:
    """A field of any number, type and encoding; mostly well-formed."""
    number = random.choice(
        (1, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 8, 9, 10, 11, 15, 16, 40, 2000, 2**29 - 1, 2**29 + 1, 0)
    )
    longer = random.choice((0,) * 12 + (1, 2, 4, 9))
    kind = random.choice((0, 0, 0, 1, 2, 2, 2, 2, 3, 5, 4, 6, 7)) if random.random() < 0.9 else 2
    tag = varint(number << 3 | kind, longer if random.random() < 0.3 else 0)
    if kind == 0:
        value = random.choice((0, 1, 9, 15, 40, 1000, NET, 2**32 + 1000, 2**63, 2**64 - 1, 2**66))
        return tag + varint(value, longer)
    if kind in (1, 5):
        return tag + random.randbytes(8 if kind == 1 else 4)
    if kind == 2:
        content = _content(random, number, depth)
        return tag + varint(len(content), longer) + content
    if kind == 3 and depth < 4:
        inner = b"".join(odd_field(random, depth + 1) for _ in range(random.randrange(3)))
        return tag + inner + varint(number << 3 | 4)
    return tag


def _content(random: Random, number: int, depth: int) -> bytes:
    if number == 2 and random.random() < 0.9:
        return random.choice(
            (
                SENDER.SerializeToString(),
                pb.ID(net_key=b"k").SerializeToString(),
                pb.ID(address="udp://[::1]:7").SerializeToString(),
                pb.ID(net_key=b"PORTER_TCP_NETKEY").SerializeToString(),
                odd_field(random, depth + 1) if depth < 4 else b"",
                b"",
            )
        )
    if number == 9 and random.random() < 0.5:
        return random.choice((b"id", "ü".encode(), b"\xff\xfe", b"\xed\xa0\x80"))
    return random.randbytes(random.choice((0, 1, 3, 20, 64, 200)))


def odd_body(random: Random) -> bytes:
    """Usual fields and odd ones in any order, then sometimes damaged."""
    fields = [odd_field(random) for _ in range(random.randrange(6))]
    if random.random() < 0.8:
        fields.insert(random.randrange(len(fields) + 1), usual_body(random))
    return damaged(random, b"".join(fields)) if random.random() < 0.5 else b"".join(fields)


def damaged(random: Random, body: bytes) -> bytes:
    """Some bytes changed, removed or added."""
    changed = bytearray(body)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(4):
            case 0:
                del changed[at : at + random.choice((1, 1, 5, 100))]
            case 1:
                changed[at:at] = random.randbytes(random.choice((1, 1, 4)))
            case _ if at < len(changed):
                changed[at] = random.choice((random.randrange(256), changed[at] ^ 0x80, 0))
    return bytes(changed)
