"""The worked examples of docs/protocol.md are golden frames, and what the real server says."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from proxyservice.wire.framing import HEADER_BYTES
from tests.conftest import VECTORS
from tests.protocol_session import BEGIN, END, PROTOCOL, SEED, frames_in, session, written

TESTS = Path(__file__).parent
DOCS = PROTOCOL.parent
EXAMPLES = ["tcp_proxy_request_unsigned", "tcp_proxy_response"]


def part(heading: str) -> str:
    return PROTOCOL.read_text().split(f"\n{heading}\n")[1].split("\n# ")[0]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_part_a_are_golden_frames(number: int) -> None:
    block = re.findall(r"(?:^    .*\n)+", part("## Example: part A"), re.MULTILINE)[number]
    digits = re.findall(r"\b[0-9a-f]{2,}\b", re.sub(r"tcp://\S+", "", block))
    assert "".join(digits) == VECTORS[EXAMPLES[number]]["hex"]


def test_the_session_of_part_b_is_what_the_server_says() -> None:
    section = PROTOCOL.read_text().split(BEGIN)[1].split(END)[0]
    assert frames_in(section) == session()
    assert section.strip() == written().strip(), "run: python -m tests.protocol_session"


def test_the_session_signs_what_the_page_says() -> None:
    (block,) = re.findall(
        r"^(?:    .*\n)+", part("## Example: part B").split(BEGIN)[0], re.MULTILINE
    )
    signed = bytes.fromhex(re.sub(r"#.*", "", block))
    frames = {pb.Message.FromString(raw[HEADER_BYTES:]).opcode: raw for _, raw in session()}
    hello, challenge = frames[Opcode.HELLO], frames[Opcode.CHALLENGE]
    assert signed[-64:-32] == sha256(hello[HEADER_BYTES:]).digest()
    assert signed[-32:] == sha256(challenge[HEADER_BYTES:]).digest()
    proof = pb.Proof.FromString(pb.Message.FromString(frames[Opcode.PROOF][HEADER_BYTES:]).message)
    assert Ed25519PrivateKey.from_private_bytes(SEED).sign(signed) == proof.signature


def test_every_message_stands_in_the_table_with_every_field() -> None:
    rows = re.findall(
        r"^\| ([\d, ]+) \| ([\w, ]+) \|[^|]*\| (.*)\|$", part("## Messages"), re.MULTILINE
    )
    told = {}
    for numbers, names, fields in rows:
        for number, name in zip(numbers.split(", "), names.split(", "), strict=True):
            found = re.findall(r"(\w+) (\d+) (\w+)", fields)
            told[int(number)] = (name, {(field, int(n), kind) for field, n, kind in found})
    for opcode in set(Opcode) - {Opcode.NONE}:
        name, fields = told.pop(opcode)
        assert name == Opcode(opcode).name.title().replace("_", "")
        descriptor = pb.DESCRIPTOR.message_types_by_name.get(name)
        declared = [] if descriptor is None else descriptor.fields
        assert {(field, n) for field, n, _ in fields} == {(f.name, f.number) for f in declared}
        for field in declared:
            kind = {11: "ID", 14: "enum"}.get(field.type) or _KINDS[field.type]
            assert (field.name, field.number, kind) in fields, (name, field.name)
    assert told == {}


_KINDS = {1: "double", 3: "int64", 4: "uint64", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}
"""`FieldDescriptor.type` to its word in the .proto file."""


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_a_test_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"((?:\w+/)*test_\w+\.py)(?:::(\w+))?", page.read_text())
    for path, name in named:
        file = TESTS / path.removeprefix("tests/")
        assert file.exists(), path
        assert not name or f"def {name}" in file.read_text(), f"{path}::{name}"


@pytest.mark.parametrize(
    ("heading", "enum"),
    [("## Refusals", pb.RefusalCode), ("### Life of a stream", pb.ResetCode)],
    ids=["refusals", "resets"],
)
def test_every_code_stands_in_its_table(heading: str, enum: object) -> None:
    section = PROTOCOL.read_text().split(f"\n{heading}\n")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| (\d+) \| ([a-z_ ]+)", section, re.MULTILINE))
    declared = {
        str(number): name.partition("_")[2].lower()
        for name, number in enum.items()
        if number  # type: ignore[attr-defined]
    }
    assert told.keys() == declared.keys()
    for number, name in declared.items():
        assert told[number].strip().replace(" ", "_") == name
