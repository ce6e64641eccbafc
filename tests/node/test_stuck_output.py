"""Programs whose output nobody reads go on, and end when they are told to."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.node.processes import SCRIPTS, EchoServer, Relay, visit, wait_until
from tests.ports import unused_port

pytestmark = [pytest.mark.process, pytest.mark.heavy]

PORTS = range(22000 + os.getpid() % 20 * 40, 22000 + os.getpid() % 20 * 40 + 40)
STOP, GO_ON = b"\x13", b"\x11"  # Ctrl-S, Ctrl-Q
ENDS_SECONDS = 10.0


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(tmp_path / "relay", unused_port(), PORTS)
    yield relay
    assert relay.end(signal.SIGTERM) == 0


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


class Terminal:
    """A pseudo terminal with a program in it."""

    def __init__(self, directory: Path, *command: object) -> None:
        self.near, far = pty.openpty()
        os.set_blocking(self.near, False)

        def lead() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        environment = {**os.environ, "STATE_DIRECTORY": str(directory), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=far,
            stdout=far,
            stderr=far,
            env=environment,
            preexec_fn=lead,
        )
        os.close(far)
        self.seen = ""

    def read(self) -> str:
        with suppress(OSError):  # nothing there, or the program has gone
            while got := os.read(self.near, 65536):
                self.seen += got.decode()
        return self.seen

    def wait_for(self, pattern: str) -> str:
        wait_until(lambda: re.search(pattern, self.read()), what=f"{pattern} in {self.seen}")
        match = re.search(pattern, self.seen)
        assert match is not None
        return match[1]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(ENDS_SECONDS)
        os.close(self.near)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for one in made:
        one.close()


@pytest.mark.parametrize("command", ["expose", "proxynode"])
def test_a_stopped_terminal_stops_nobody_and_the_end_comes_promptly(
    relay: Relay, echo: EchoServer, terminals: list[Terminal], tmp_path: Path, command: str
) -> None:
    words: list[object] = [SCRIPTS / "proxyservice", "expose", echo.port, "--via", relay.via]
    if command == "proxynode":
        words = [SCRIPTS / "twistd", "-n", "--pidfile=", "proxynode"]
        words += ["--expose", echo.port, "--via", relay.via]
    terminal = Terminal(tmp_path / "node", *words)
    terminals.append(terminal)
    address = terminal.wait_for(r"(?:exposed|\d+ is reached) (?:\d+ )?at (\S+)")
    os.write(terminal.near, STOP)
    for size in range(1, 40):
        said = b"x" * size
        assert visit(address, said) == said
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(ENDS_SECONDS) == 0


def test_what_was_said_while_the_terminal_stopped_is_there_when_it_goes_on(
    relay: Relay, echo: EchoServer, terminals: list[Terminal], tmp_path: Path
) -> None:
    words = ["expose", echo.port, "--via", relay.via]
    terminal = Terminal(tmp_path / "node", SCRIPTS / "proxyservice", *words)
    terminals.append(terminal)
    terminal.wait_for(r"exposed \d+ at (\S+)")
    os.write(terminal.near, STOP)
    relay.kill()
    relay.again()
    relay.wait_for("leased port .*")
    os.write(terminal.near, GO_ON)
    terminal.wait_for(r"(\S+) is reached at \S+ again")


def test_a_relay_whose_log_nobody_reads_serves_on_and_ends(
    echo: EchoServer, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    port = unused_port()
    words = ["-n", "--pidfile=", "proxyservice", "--state-dir", str(tmp_path / "state")]
    words += ["--listen", f"tcp:{port}:interface=127.0.0.1", "--public-host", "127.0.0.1"]
    policy = tmp_path / "policy.toml"
    policy.touch()
    words += ["--ports", f"{PORTS.start}-{PORTS.stop - 1}", "--policy", str(policy)]
    relay = subprocess.Popen([SCRIPTS / "twistd", *words], stdout=writer, stderr=writer)
    os.close(writer)
    node: subprocess.Popen[str] | None = None
    try:
        node = subprocess.Popen(
            [SCRIPTS / "proxyservice", "expose", str(echo.port), "--via", f"127.0.0.1:{port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "STATE_DIRECTORY": str(tmp_path / "node")},
            text=True,
        )
        assert node.stdout is not None
        address = node.stdout.readline().split()[-1]
        for number in range(100):  # a SIGHUP is a line of the log each, or more
            relay.send_signal(signal.SIGHUP)
            said = b"%d" % number
            assert visit(address, said) == said
        relay.terminate()
        assert relay.wait(ENDS_SECONDS) == 0
    finally:
        for process in filter(None, (relay, node)):
            process.kill()
            process.wait(ENDS_SECONDS)
        if node is not None and node.stdout is not None:
            node.stdout.close()
        os.close(reader)
