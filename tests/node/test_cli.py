"""`proxyservice` as people type it: what is wrong is one line and no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from proxyservice.errors import StartError
from proxyservice.node import cli
from proxyservice.node.cli import main
from proxyservice.node.exposure import ExposeSettings, read_settings
from proxyservice.node.keys import create_key, fingerprint

WRONG = [
    "expse",
    "--nope",
    "keygen --kye x",
    "expose",
    "expose 80",
    "expose --via relay",
    "expose 80 --vai relay",
    "expose 80 --via",
    "expose 80 --via a:b:c",
    "expose 80 --via ::1",
    "expose 80 --via relay:0",
    "expose 80 --via relay:65536",
    "expose 80 --via http://relay",
    "expose 80 --via user@relay",
    "expose 80 --via relay/",
    "expose 80 --via a,b",
    "expose 80x --via relay",
    "expose 0 --via relay",
    "expose 80 80 --via relay",
    "expose 80 81 --via relay --port 20000",
    "expose 80 --via relay --port 0",
    "expose 80 --via relay --port many",
    "expose 80 --via relay --proxy-protocol v3",
    f"expose 80 --via relay --label {'x' * 65}",
    "expose 80 --via relay --label a\x07b",
    "expose 80 --via relay --key /",
    "expose 80 --via relay --releas",
    "expose 80 --via relay --jsno",
]


@pytest.mark.parametrize("command", WRONG)
def test_wrong_usage_is_one_line_and_status_2(command: str) -> None:
    ran = CliRunner().invoke(main, command.split(" "))
    assert ran.exit_code == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("Error: ")
    assert ran.stderr.count("\n") == 1


def test_a_name_alone_is_a_question_for_help() -> None:
    assert "expose" in CliRunner().invoke(main, []).output


def test_the_fingerprint_of_a_key_file(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    key = create_key(path)
    ran = CliRunner().invoke(main, ["fingerprint", "--key", str(path)])
    assert ran.stdout == f"{path} {fingerprint(key)}\n"
    ran = CliRunner().invoke(main, ["fingerprint", "--key", str(tmp_path / "other")])
    assert (ran.exit_code, ran.stderr.count("\n")) == (1, 1)


def settings(*targets: str, via: str = "relay", **options: object) -> ExposeSettings:
    return read_settings(targets, [via], state_dir="/state", **options)  # type: ignore[arg-type]


def test_the_state_directory_has_what_is_not_named() -> None:
    read = settings("80")
    assert read.key_file == Path("/state/node.key")
    assert read.known_relays_file == Path("/state/known-relays")
    assert settings("80", key=Path("/elsewhere/key")).key_file == Path("/elsewhere/key")


def test_paths_are_absolute_for_a_process_that_moves() -> None:
    assert settings("80", key=Path("my.key")).key_file == Path.cwd() / "my.key"


@pytest.mark.parametrize("via", ["relay", "relay:7", "[::1]", "[::1]:7", "10.0.0.1"])
def test_servers_as_typed(via: str) -> None:
    assert settings("80", via=via).servers == (via,)


def test_a_server_may_be_an_endpoint_string() -> None:
    assert settings("80", via="tcp:relay:7").servers == ("relay:7",)
    assert settings("80", via="tcp:7").servers == ("tcp:7",)
    assert settings("80", via="tcp:host=relay:port=7").servers == ("relay:7",)
    assert settings("80", via="tcp:relay:port=7").servers == ("relay:7",)
    for odd in ("tcp:host=relay:port=7:timeout=3", "tcp:relay:7:port=8"):
        with pytest.raises(ValueError, match="only host and port"):
            settings("80", via=odd)


def test_a_list_of_servers_is_several_options() -> None:
    with pytest.raises(ValueError, match="write --via once for each relay"):
        settings("80", via="relay:7,other:7")


@pytest.mark.parametrize(
    "asked",
    [
        {"pin": ["ab" * 32]},
        {"ca": Path("ca.pem")},
        {"cert": Path("node.pem")},
        {"cert_key": Path("node.key")},
    ],
)
def test_trust_that_no_relay_would_be_checked_by_is_refused(asked: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="write --via tls:HOST:PORT"):
        settings("80", via="relay", **asked)
    if "pin" in asked:  # one of a list is enough
        assert read_settings(["80"], ["relay", "tls:other"], state_dir="/state", **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "status", "line"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (StartError("no key"), 1, "Error: no key\n"),
        (CancelledError(), 1, "Error: it takes too long; giving up\n"),
        (ZeroDivisionError("x"), 1, "Error: this is a mistake of ours: ZeroDivisionError: x\n"),
    ],
)
def test_how_a_process_ends(
    result: object, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Failure(result) if isinstance(result, Exception) else result
    assert cli._status(outcome) == status
    assert capsys.readouterr() == ("", line)


def test_every_option_of_expose_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "node.md").read_text()
    options = {name for param in main.commands["expose"].params for name in param.opts}
    assert [name for name in sorted(options) if name[0] == "-" and f"| `{name}" not in text] == []
