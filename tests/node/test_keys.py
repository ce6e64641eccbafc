"""Key files: private, whole, and refused with one line otherwise."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxyservice.errors import StartError
from proxyservice.node.cli import main
from proxyservice.node.keys import (
    create_key,
    fingerprint,
    load_key,
    load_or_create_key,
    public_bytes,
)


def test_a_key_is_written_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "node.key"
    key = create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert public_bytes(load_key(path)) == public_bytes(key)
    assert public_bytes(load_or_create_key(path)) == public_bytes(key)
    assert os.listdir(path.parent) == ["node.key"]


def test_a_key_is_made_on_first_use(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    assert public_bytes(load_or_create_key(path)) == public_bytes(load_key(path))


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    before = create_key(path)
    with pytest.raises(StartError, match="File exists"):
        create_key(path)
    assert public_bytes(load_key(path)) == public_bytes(before)
    assert os.listdir(tmp_path) == ["node.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    create_key(path)
    path.chmod(mode)
    with pytest.raises(StartError, match=f"chmod 600 {path}"):
        load_key(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"-----BEGIN PRIVATE KEY-----\n", b"x" * 99999]
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(StartError, match="no key file"):
        load_key(path)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.touch(mode=0o600)
    pem = Ed448PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.write_bytes(pem)
    with pytest.raises(StartError, match="no Ed25519 key"):
        load_key(path)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot read key file"):
        load_key(tmp_path)


def test_keygen_prints_file_and_fingerprint_and_refuses_the_second_time(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    made = CliRunner().invoke(main, ["keygen", "--key", str(path)])
    assert made.output == f"{path} {fingerprint(load_key(path))}\n"
    again = CliRunner().invoke(main, ["keygen", "--key", str(path)])
    assert again.exit_code == 1
    assert again.output == f"Error: cannot create key file {path}: File exists\n"
