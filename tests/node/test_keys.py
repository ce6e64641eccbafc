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
from proxyservice.node import keys
from proxyservice.node.cli import main
from proxyservice.node.keys import (
    create_key,
    fingerprint,
    load_key,
    load_or_create_key,
    open_key,
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


@pytest.mark.parametrize("text", ["root:x:0:0::/root:/bin/sh\n", ""])
def test_nobody_is_told_to_chmod_what_is_no_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "passwd"
    path.write_text(text)
    path.chmod(0o644)
    with pytest.raises(StartError, match="no key file") as error:
        load_key(path)
    assert "chmod 600" not in str(error.value)


def test_a_key_of_windows_is_a_key(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    key = create_key(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert public_bytes(load_key(path)) == public_bytes(key)


def test_no_directory_is_made_for_a_path_that_was_typed(tmp_path: Path) -> None:
    path = tmp_path / "typo" / "node.key"
    with pytest.raises(StartError, match=f"there is no directory {path.parent}; make it, or"):
        open_key(path, in_new_directory=False)
    ran = CliRunner().invoke(main, ["keygen", "--key", str(path)])
    assert ran.exit_code == 1
    assert os.listdir(tmp_path) == []
    path.parent.mkdir()
    assert open_key(path, in_new_directory=False).is_new
    assert not open_key(path, in_new_directory=False).is_new


def test_where_no_mode_can_be_set_a_warning_stands_for_the_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "keeps_modes", lambda directory: False)
    told: list[str] = []
    monkeypatch.setattr(keys.log, "warn", lambda text, **more: told.append(text.format(**more)))
    path = tmp_path / "node.key"
    key = create_key(path)
    path.chmod(0o777)
    assert public_bytes(load_key(path)) == public_bytes(key)
    (line,) = told
    assert line.startswith(f"{path}: the file system keeps no modes")


def test_a_link_to_nothing_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match="cannot read key file"):
        load_or_create_key(path)


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
