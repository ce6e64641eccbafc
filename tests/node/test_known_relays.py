"""Relays are pinned at the first meeting."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from proxyservice.errors import StartError, UntrustedError
from proxyservice.node import known_relays
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


def line(server: str, relay_id: bytes) -> str:
    return f"{server} {relay_id.hex()}\n"


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the log says."""
    lines: list[str] = []

    def observer(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


WRITTEN = {
    "Windows' line ends": line("a:1", ONE).replace("\n", "\r\n").encode(),
    "a byte order mark": b"\xef\xbb\xbf" + line("a:1", ONE).encode(),
    "empty lines": f"\n\n{line('a:1', ONE)}  \n\n".encode(),
    "comments": f"# mine\n{line('a:1', ONE).rstrip()} # the good one\n".encode(),
    "tabs, capitals, no line end": f"  a:1\t{ONE.hex().upper()}".encode(),
    "the same twice": 2 * line("a:1", ONE).encode(),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_file_as_people_and_windows_write_it(how: str, tmp_path: Path) -> None:
    path = tmp_path / "known-relays"
    path.write_bytes(WRITTEN[how])
    known = KnownRelays(path)
    with pytest.raises(UntrustedError, match="not the relay it was"):
        known.check("a:1", OTHER)
    known.check("b:1", OTHER)
    assert path.read_bytes().startswith(WRITTEN[how]), "comments stay"
    again = KnownRelays(path)
    again.check("a:1", ONE)
    again.check("b:1", OTHER)


def test_what_two_processes_pin_is_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "known-relays"
    first, second = KnownRelays(path), KnownRelays(path)
    first.check("a:1", ONE)
    second.check("b:1", OTHER)
    first.check("c:1", ONE)
    again = KnownRelays(path)
    assert [name in again for name in ("a:1", "b:1", "c:1")] == [True] * 3
    with pytest.raises(UntrustedError, match="not the relay it was"):
        second.check("c:1", OTHER)


def test_many_processes_at_once_lose_no_pin(tmp_path: Path) -> None:
    path = tmp_path / "known-relays"
    script = f"""
import sys
from pathlib import Path
from proxyservice.node import known_relays
from proxyservice.node.known_relays import KnownRelays
known = KnownRelays(Path({str(path)!r}))
sys.stdin.readline()
for number in range(20):
    known.check(f"{{sys.argv[1]}}-{{number}}:1", bytes([int(sys.argv[1])]) * 32)
"""
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(number)], stdin=subprocess.PIPE)
        for number in range(4)
    ]
    for one in running:
        one.communicate(b"\n", timeout=60)
        assert one.returncode == 0
    known = KnownRelays(path)
    for process in range(4):
        for number in range(20):
            known.check(f"{process}-{number}:1", bytes([process]) * 32)
    assert len(path.read_text().splitlines()) == 80


@pytest.mark.parametrize("content", [b"", b"\n", b"# nothing\r\n", b"\xef\xbb\xbf"])
def test_an_emptied_file_and_each_new_pin_are_said(
    content: bytes, tmp_path: Path, told: list[str]
) -> None:
    path = tmp_path / "known-relays"
    KnownRelays(path)
    assert told == [], "no file at all is a first start"
    path.write_bytes(content)
    known = KnownRelays(path)
    assert told.pop() == f"{path} names no relay: the next one is trusted and pinned"
    known.check("a:1", ONE)
    assert told == [
        f"a:1 is met for the first time: its id {ONE.hex()[:16]}... is pinned in {path}"
    ]


@pytest.mark.parametrize("how", ["emptied", "removed"])
def test_the_pins_of_a_process_outlast_their_file(
    how: str, tmp_path: Path, told: list[str]
) -> None:
    path = tmp_path / "known-relays"
    known = KnownRelays(path)
    known.check("a:1", ONE)
    if how == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(UntrustedError, match="not the relay it was"):
        known.check("a:1", OTHER)
    assert f"{path} is empty or gone: the pins of this process stay" in told[-1]
    assert path.read_text() == line("a:1", ONE)


def test_a_line_that_is_removed_while_the_node_runs_is_forgotten(
    tmp_path: Path, told: list[str]
) -> None:
    path = tmp_path / "known-relays"
    known = KnownRelays(path)
    known.check("a:1", ONE)
    known.check("b:1", ONE)
    path.write_text(line("b:1", ONE))
    known.check("a:1", OTHER)
    assert told[-1].startswith("a:1 is met for the first time")
    KnownRelays(path).check("a:1", OTHER)


def test_a_file_that_is_damaged_while_the_node_runs_lets_nobody_new_in(tmp_path: Path) -> None:
    path = tmp_path / "known-relays"
    known = KnownRelays(path)
    known.check("a:1", ONE)
    path.write_text("a:1 half\n")
    known.check("a:1", ONE)
    for server, relay_id in (("a:1", OTHER), ("b:1", ONE)):
        with pytest.raises(UntrustedError, match=f"{path} is no file of known relays: line 1 "):
            known.check(server, relay_id)
    assert path.read_text() == "a:1 half\n"


def test_two_ids_for_one_server_are_not_chosen_from(tmp_path: Path) -> None:
    path = tmp_path / "known-relays"
    path.write_text(line("a:1", ONE) + line("a:1", OTHER))
    with pytest.raises(StartError, match="line 2 has another id for a:1"):
        KnownRelays(path)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "known-relays").symlink_to(tmp_path / "elsewhere")
    KnownRelays(tmp_path / "known-relays").check("a:1", ONE)
    assert (tmp_path / "elsewhere").read_text() == line("a:1", ONE)


@pytest.mark.parametrize(
    "text",
    ["a:1\n", "a:1 zz\n", "a:1 00\n", "a b c\n", "\xff", "\xff\xfea\0", "a:1 " + "0" * 2**20],
)
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


def test_an_impostor_is_named_also_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "known-relays"
    path.write_text(line("a:1", ONE))
    known = KnownRelays(path)

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(known_relays, "locked", refuse)
    known.check("a:1", ONE)
    with pytest.raises(UntrustedError, match="not the relay it was"):
        known.check("a:1", OTHER)
    for _ in range(2):
        with pytest.raises(StartError, match=r"cannot write .*: Read-only"):
            known.check("b:1", ONE)


def test_what_could_not_be_written_is_not_trusted_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    known = KnownRelays(tmp_path / "known-relays")
    with monkeypatch.context() as full:
        full.setattr(known_relays, "replace_private", refuse)
        for _ in range(2):
            with pytest.raises(StartError, match=r"cannot write .*: No space"):
                known.check("a:1", ONE)
    assert told == []
    known.check("a:1", OTHER)
    KnownRelays(tmp_path / "known-relays").check("a:1", OTHER)
