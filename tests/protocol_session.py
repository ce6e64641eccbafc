"""The worked session of docs/protocol.md: fixed keys and nonces, and the real server in memory.

`python -m tests.protocol_session` writes it into the page again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from proxyservice.server import handshake
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import PAYLOADS, Opcode
from proxyservice.wire.framing import HEADER_BYTES
from tests.leases.harness import store_thread
from tests.server.memory import MemoryRelay, RawNode

PROTOCOL = Path(__file__).parents[1] / "docs" / "protocol.md"
BEGIN, END = "<!-- session -->\n", "<!-- end of session -->\n"

SEED = bytes(range(0x20))
CLIENT_NONCE = bytes(range(0x40, 0x60))
SERVER_NONCE = bytes(range(0x60, 0x80))
RELAY_ID = bytes(range(0x80, 0xA0))
WIDE_BYTES = 32
"""Longer values are shown in lines of so many bytes."""


def session() -> list[tuple[str, bytes]]:
    """Every frame, in order, with who sends it."""
    frames: list[tuple[str, bytes]] = []
    with store_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(handshake.secrets, "token_bytes", lambda _: SERVER_NONCE)
        relay = MemoryRelay(ports=range(20000, 20010), relay_id=RELAY_ID)
        node = relay.node(SEED, address="tcp://127.0.0.1:60001")
        _take_part(relay, node, frames)
    return frames


def _take_part(relay: MemoryRelay, node: RawNode, frames: list[tuple[str, bytes]]) -> None:
    def note() -> list[Any]:
        frames.extend(("node", raw) for raw in node.sent)
        node.sent.clear()
        heard = node.heard()
        frames.extend(("server", said.raw) for said in heard)
        return heard

    for optional in ("id", "connection_id"):
        node.sender.ClearField(optional)
    node.client_nonce = CLIENT_NONCE
    node.hello()
    (challenge,) = note()
    node.say(Opcode.PROOF, node.proof(challenge))
    note()
    node.ask("web", nonce=1)
    note()
    visitor = relay.visit(20000)
    assert visitor is not None
    visitor.transport.write(b"ping\n")
    relay.pump()
    note()
    node.stream_data(1, b"pong\n")
    node.stream_say(Opcode.STREAM_WINDOW, 1, pb.StreamWindow(credit=5))
    note()
    visitor.transport.loseWriteConnection()
    relay.pump()
    note()
    node.stream_say(Opcode.STREAM_END, 1)
    assert note() == []
    assert visitor.got == b"pong\n"
    assert visitor.lost is not None


def written() -> str:
    """The section of the page."""
    return "\n".join("\n".join(_shown(who, raw)) + "\n" for who, raw in session())


def _shown(who: str, raw: bytes) -> Iterator[str]:
    message = pb.Message.FromString(raw[HEADER_BYTES:])
    name = Opcode(message.opcode).name.title().replace("_", "")
    yield f"{name}, from the {who}:"
    yield ""
    yield _line(f"{raw[:4].hex()} {raw[4:5].hex()} {raw[5:6].hex()} {raw[6:10].hex()}", "header")
    payload = PAYLOADS.get(message.opcode)
    kind = None if payload is None else payload.DESCRIPTOR
    yield from _fields(raw[HEADER_BYTES:], pb.Message.DESCRIPTOR, kind, 1)


def _fields(
    body: bytes, descriptor: Descriptor, payload: Descriptor | None, depth: int
) -> Iterator[str]:
    at = 0
    while at < len(body):
        tag, start = _varint(body, at)
        value, end = _varint(body, start)
        field = descriptor.fields_by_number[tag >> 3]
        if tag & 7 == 0:
            yield _line(
                f"{body[at:start].hex()} {body[start:end].hex()}", _said(field, value), depth
            )
            at = end
            continue
        inner, head = body[end : end + value], body[at:end].hex()
        is_payload = payload is not None and field.name == "message"
        kind = payload if is_payload else field.message_type
        if kind is not None:
            yield _line(head, f"{field.name}: {kind.name}", depth)
            yield from _fields(inner, kind, None, depth + 1)
        elif len(inner) >= WIDE_BYTES:
            yield _line(head, field.name, depth)
            for part in range(0, len(inner), WIDE_BYTES):
                yield _line(inner[part : part + WIDE_BYTES].hex(), "", depth + 1)
        else:
            yield _line(f"{head} {inner.hex()}", _said(field, inner), depth)
        at = end + value


def _said(field: FieldDescriptor, value: int | bytes) -> str:
    text = value if isinstance(value, int) else value.decode().replace("\n", "\\n")
    return f"{field.name} {text}"


def _line(digits: str, comment: str, depth: int = 0) -> str:
    line = "    " + "  " * depth + digits
    return f"{line:<60}# {comment}" if comment else line


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def frames_in(section: str) -> list[tuple[str, bytes]]:
    """Who and what, read back from the page as its readers would."""
    found = re.findall(r"^\w+, from the (\w+):\n\n((?:    .*\n)+)", section, re.MULTILINE)
    return [(who, bytes.fromhex(re.sub(r"#.*", "", block))) for who, block in found]


if __name__ == "__main__":
    page = PROTOCOL.read_text()
    before, _, rest = page.partition(BEGIN)
    PROTOCOL.write_text(before + BEGIN + "\n" + written() + "\n" + END + rest.partition(END)[2])
