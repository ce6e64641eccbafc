"""The programs of `examples/` and of docs/node.md do what they say, as they are written."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.processes import Program, Relay, visit
from tests.ports import unused_port
from tests.server.certificates import Authority

pytestmark = pytest.mark.process

TOP = Path(__file__).parents[2]
PORTS = range(25000 + os.getpid() % 50 * 10, 25000 + os.getpid() % 50 * 10 + 10)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    relay = Relay(tmp_path_factory.mktemp("relay"), unused_port(), PORTS)
    yield relay
    assert relay.end(signal.SIGTERM) == 0


def example(directory: Path, *command: object) -> Program:
    return Program(directory / "program", *command, STATE_DIRECTORY=str(directory / "state"))


def echoes(program: Program) -> None:
    try:
        assert visit(program.wait_for(r"echoing at (\S+)")[1], b"hello") == b"hello"
    finally:
        program.end(signal.SIGTERM)
    assert "Traceback" not in program.stdout + program.stderr


def test_the_endpoint_echoes(relay: Relay, tmp_path: Path) -> None:
    echoes(example(tmp_path, sys.executable, TOP / "examples" / "echo.py", relay.via))


def test_the_library_echoes_as_documented(relay: Relay, tmp_path: Path) -> None:
    [program] = re.findall("```python\n(.*?)```", (TOP / "docs" / "node.md").read_text(), re.DOTALL)
    assert '"relay.example"' in program
    program = program.replace('"relay.example"', repr(relay.via))
    program = program.replace('"echo.key"', repr(str(tmp_path / "echo.key")))
    (tmp_path / "echo.py").write_text(program)
    echoes(example(tmp_path, sys.executable, tmp_path / "echo.py"))


def test_two_nodes_exchange_a_message(relay: Relay, tmp_path: Path) -> None:
    nodes = example(tmp_path, sys.executable, TOP / "examples" / "two_nodes.py", relay.via)
    assert nodes.ended() == 0, nodes.stderr
    assert re.fullmatch(
        r"bob got b'hello, bob' from \S+\nalice got b'hello, alice'\n", nodes.stdout
    )


def test_the_documented_command_prints_a_pin(tmp_path: Path) -> None:
    certificate, _, pin = Authority(tmp_path, "authority").issue("relay")
    [command] = re.findall(
        "^    (openssl x509 .*)$", (TOP / "docs" / "security.md").read_text(), re.M
    )
    command = command.replace("relay.crt", shlex.quote(str(certificate)))
    assert subprocess.check_output(command, shell=True, text=True) == f"{pin}\n"
