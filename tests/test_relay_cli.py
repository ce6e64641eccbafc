"""`proxyservice relay`: the relay without `twistd` in reach, with the same options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxyservice import __version__, relay_cli
from proxyservice.node.cli import main

COMMAND = str(Path(sys.executable).with_name("proxyservice"))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.process
def test_it_runs_the_relay_and_says_what_it_is_in_the_first_line(
    tmp_path: Path, free_port: int
) -> None:
    words = [f"--listen=tcp:{free_port}:interface=127.0.0.1", f"--state-dir={tmp_path}"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        relay = subprocess.Popen([COMMAND, "relay", *words], stdout=out, stderr=out)
        try:
            with subprocess.Popen(["tail", "-f", log], stdout=subprocess.PIPE) as follow:
                assert follow.stdout is not None
                while b"started: nodes connect" not in follow.stdout.readline():
                    assert relay.poll() is None, log.read_text()
                follow.kill()
            relay.send_signal(signal.SIGINT)
            assert relay.wait(30) == 0
        finally:
            relay.kill()
    assert f"proxyservice, version {__version__}, on " in log.read_text().splitlines()[0]


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["--version"], 0, f"proxyservice {__version__}"),
        (["--prots", "1-2"], 2, "option --prots not recognized; did you mean --ports?"),
        (["--ports", "many"], 2, "--ports: 'many' is no port range; write it as 20000-29999"),
    ],
)
def test_its_options_are_the_plugins(words: list[str], status: int, line: str) -> None:
    done = run("relay", *words)
    assert done.returncode == status
    prefix = "proxyservice relay: " if status else ""
    assert done.stdout + done.stderr == f"{prefix}{line}\n"


@pytest.mark.process
def test_its_help_names_the_command_that_was_typed() -> None:
    done = run("relay", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: proxyservice relay [options]\n")
    assert "--ports=" in done.stdout


def test_where_it_cannot_run_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_cli, "NEEDED_OF_THE_SYSTEM", ("no_such_module_anywhere",))
    done = CliRunner().invoke(main, ["relay"])
    assert done.exit_code == 1
    assert "the relay does not run on" in done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("exposs", "; did you mean expose?"), ("zzz", "; `proxyservice --help` lists them")],
)
def test_a_mistyped_command_is_met_with_a_suggestion(typed: str, meant: str) -> None:
    done = CliRunner().invoke(main, [typed])
    assert done.exit_code == 2
    assert done.output == f"Error: no command {typed!r}{meant}\n"


@pytest.mark.process
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("proxyservice ex", {"expose"}),
        ("proxyservice expose --proxy", {"--proxy-protocol"}),
        ("proxyservice relay --tls-c", {"--tls-cert", "--tls-client-ca"}),
    ],
)
def test_a_shell_completes_commands_and_options(line: str, completed: set[str]) -> None:
    words = line.split()
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    environment = {**os.environ, **asked, "_PROXYSERVICE_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [COMMAND], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert {row.partition(",")[2] for row in done.stdout.splitlines()} == completed
