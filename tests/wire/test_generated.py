"""The committed protobuf code is what proto/ says, and proto/ says what everything means."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from proxyservice.wire import proxyservice_pb2 as pb

PROTO = Path(__file__).parents[2] / "proto" / "proxyservice.proto"


def test_the_committed_code_matches_the_contract(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    made = tmp_path / "set"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO.parent}", f"-o{made}", PROTO.name],
        check=True,
    )
    (expected,) = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    committed = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(committed)
    expected.ClearField("source_code_info")
    for message in expected.message_type:
        for field in message.field:
            field.ClearField("json_name")
    for message in committed.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert committed == expected


def test_every_field_and_message_is_commented() -> None:
    lines = PROTO.read_text().splitlines()
    entry = re.compile(r"^(message|enum) |^  .* = \d+;")
    bare = [
        line
        for before, line in pairwise(lines)
        if entry.match(line) and "//" not in line and not before.strip().startswith("//")
    ]
    assert not bare
