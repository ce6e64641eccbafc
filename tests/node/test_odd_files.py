"""Files that Windows wrote, words that a locale cannot read: they work, or one line says why."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from proxyservice.errors import StartError
from proxyservice.net.certificates import read_key_pair
from proxyservice.node.exposure import read_settings
from proxyservice.node.targets import parse_target
from proxyservice.node.tls import TLSTrust
from proxyservice.node.tokens import find_token, make_token, write_token
from proxyservice.server.policy import Policy
from proxyservice.server.tokens import Tokens
from proxyservice.text import argument_text, decode_text
from tests.server.certificates import Authority

BOM = b"\xef\xbb\xbf"
WINDOWS = {
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "BOM": lambda text: BOM + text.encode(),
    "BOM and CRLF": lambda text: BOM + text.replace("\n", "\r\n").encode(),
    "space around": lambda text: b" \n" + text.encode() + b" \n\n",
}
UNDECODABLE = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("how", WINDOWS)
def test_a_token_is_read_on_both_sides(how: str, tmp_path: Path) -> None:
    token, line = make_token("alice", "1d", 1e9)
    path = tmp_path / "alice.token"
    write_token(path, token)
    path.write_bytes(WINDOWS[how](path.read_text()))
    assert find_token(path, {}) == token
    path.write_bytes(WINDOWS[how](f"# mine\n{line}\n"))
    assert list(Tokens.read(path).known) == [token.id]


@pytest.mark.parametrize("how", WINDOWS)
def test_a_token_of_the_environment(how: str) -> None:
    token, _ = make_token("alice", None, 0.0)
    text = WINDOWS[how](token.text + "\n").decode()
    assert find_token(None, {"PROXYSERVICE_TOKEN": text}) == token


@pytest.mark.parametrize("how", WINDOWS)
def test_a_policy_is_read(how: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(WINDOWS[how]("[default]\nleases = 2\n"))
    assert Policy.read(path).default.leases == 2


@pytest.mark.parametrize("how", WINDOWS)
def test_certificates_and_their_key_are_read(how: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    certificate, key, _ = authority.issue("node")
    for path in (certificate, key, authority.pem):
        path.write_bytes(WINDOWS[how](path.read_text()))
    read_key_pair(certificate, key)
    TLSTrust(ca=authority.pem, certificate=certificate, key=key).creator("relay.example")


@pytest.mark.parametrize("data", ["a".encode("utf-16"), "a".encode("utf-16-be"), b"ok\ncaf\xe9\n"])
def test_what_is_no_utf8_is_one_line_that_says_so(data: bytes, tmp_path: Path) -> None:
    if data == b"\0a":
        data = b"\xfe\xff" + data
    path = tmp_path / "file"
    path.write_bytes(data)
    path.chmod(0o600)
    for read in (Policy.read, Tokens.read, lambda path: find_token(path, {})):
        with pytest.raises(StartError, match=f"{path}.*: (it is UTF-16|line 2 is not UTF-8)"):
            read(path)


def test_a_token_file_is_judged_by_its_content_before_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0\n")
    path.chmod(0o644)
    with pytest.raises(StartError, match="this is no token"):
        find_token(path, {})


def test_text_is_decoded_once() -> None:
    assert decode_text(BOM + BOM + b"x") == "\ufeffx"
    assert decode_text(b"") == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_argument_is_the_same_text_in_every_locale(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "Büro 東京".encode()
    in_locale = typed.decode(encoding, "surrogateescape")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode(encoding, "surrogateescape"))
    assert argument_text(in_locale) == "Büro 東京"


def test_text_of_another_encoding_stays_what_its_locale_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "latin-1")
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("latin-1", "surrogateescape"))
    assert argument_text("café") == "café"


def test_undecodable_words_are_one_line() -> None:
    for words in (
        {"targets": [f"unix:/run/{UNDECODABLE}"]},
        {"targets": [f"{UNDECODABLE}:80"]},
        {"label": UNDECODABLE},
        {"via": [f"{UNDECODABLE}:1"]},
    ):
        given = {"targets": ["80"], "via": ["relay"], **words}
        with pytest.raises(ValueError, match="is no text in UTF-8"):
            read_settings(**given)  # type: ignore[arg-type]


def test_a_target_keeps_the_path_that_was_typed_and_has_a_name_in_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = "unix:/run/größe.sock".encode().decode("ascii", "surrogateescape")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    target = parse_target(typed)
    assert target.name == "unix:/run/größe.sock"
    assert target.endpoint == typed
