"""Relays are pinned at the first meeting."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyservice.errors import StartError, UntrustedError
from proxyservice.node.known_relays import KnownRelays

ONE, OTHER = b"\1" * 32, b"\2" * 32


def test_a_pin_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "known-relays"
    known = KnownRelays(path)
    known.check("a:1", ONE)
    known.check("b:1", OTHER)
    again = KnownRelays(path)
    assert "a:1" in again
    assert "c:1" not in again
    again.check("a:1", ONE)
    with pytest.raises(UntrustedError, match=f"not the relay it was.*{path}"):
        again.check("b:1", ONE)
    assert path.read_text() == f"a:1 {ONE.hex()}\nb:1 {OTHER.hex()}\n"


def test_without_a_file_pins_last_as_long_as_the_object() -> None:
    known = KnownRelays()
    known.check("a:1", ONE)
    with pytest.raises(UntrustedError):
        known.check("a:1", OTHER)


def test_an_id_of_the_wrong_size_is_no_relay() -> None:
    known = KnownRelays()
    with pytest.raises(UntrustedError, match="no valid relay id"):
        known.check("a:1", b"")
    assert "a:1" not in known


@pytest.mark.parametrize("text", ["a:1\n", "a:1 zz\n", "a:1 00\n", "a b c\n", "\xff"])
def test_a_broken_file_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "known-relays"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(StartError, match=str(path)):
        KnownRelays(path)


def test_a_pin_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "state" / "known-relays"
    known = KnownRelays(path)
    (tmp_path / "state").touch()
    with pytest.raises(StartError, match="cannot write"):
        known.check("a:1", ONE)
