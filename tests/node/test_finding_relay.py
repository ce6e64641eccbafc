"""`expose` on its way to a relay: addresses of a name, other servers, signals, terminals."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.node.processes import SCRIPTS, EchoServer, Program, Relay, visit, wait_until
from tests.ports import unused_port
from tests.server.certificates import Authority

pytestmark = [pytest.mark.process, pytest.mark.heavy]

PORTS = range(23000 + os.getpid() % 20 * 40, 23000 + os.getpid() % 20 * 40 + 40)
TRACEBACK = re.compile("Traceback|Unhandled|mistake of ours|Aborted")

NAMED = """
import socket, sys
given = socket.getaddrinfo
names = {names!r}
def getaddrinfo(host, port, family=0, *more, **others):
    if host not in names:
        return given(host, port, family, *more, **others)
    kind = lambda a: socket.AF_INET6 if ":" in a else socket.AF_INET
    found = [a for a in names[host] if family in (0, kind(a))]
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [answer for a in found for answer in given(a, port, 0, socket.SOCK_STREAM)]
socket.getaddrinfo = getaddrinfo
from proxyservice.command import main
main(prog_name="proxyservice")
"""
"""`proxyservice`, with names of a test's own."""

Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    programs: list[Program] = []

    def begin(*command: object) -> Program:
        directory = tmp_path / f"program-{len(programs)}"
        program = Program(directory, *command, STATE_DIRECTORY=str(directory))
        programs.append(program)
        return program

    yield begin
    for program in programs:
        program.kill()
        assert not TRACEBACK.search(program.stdout + program.stderr)


@pytest.fixture
def expose(start: Start) -> Start:
    return lambda *words: start(SCRIPTS / "proxyservice", "expose", *words)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


# ------------------------------------------------------------------- addresses


def relay_at(tmp_path: Path, host: str, *options: object, tls: str = "") -> Program:
    port = unused_port()
    escaped = host.replace(":", r"\:")
    program = Program(
        tmp_path / "relay",
        *(SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice", "--state-dir", "state"),
        *("--listen", f"{tls}tcp{'6' if ':' in host else ''}:{port}:interface={escaped}"),
        *("--ports", f"{PORTS.start}-{PORTS.stop - 1}", "--public-host", "127.0.0.1", *options),
    )
    program.wait_for("started: .*")
    program.port = port  # type: ignore[attr-defined]
    return program


@pytest.mark.parametrize(
    ("listens", "addresses"),
    [
        ("::1", ["::1"]),
        ("::1", ["127.0.0.1", "::1"]),
        ("127.0.0.1", ["::1", "127.0.0.1"]),
        ("127.0.0.1", ["127.0.0.9", "127.0.0.8", "::1", "127.0.0.1"]),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_every_address_of_a_name_is_tried(
    listens: str,
    addresses: list[str],
    tls: bool,
    tmp_path: Path,
    start: Start,
    echo: EchoServer,
) -> None:
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6")
    options: list[object] = []
    trust: list[object] = []
    if tls:
        authority = Authority(tmp_path, "authority")
        certificate, key, _ = authority.issue("relay", host="relay.test")
        options, trust = ["--tls-cert", certificate, "--tls-key", key], ["--ca", authority.pem]
    relay = relay_at(tmp_path, listens, *options, tls="tls:" if tls else "")
    try:
        code = NAMED.format(names={"relay.test": addresses})
        via = f"{'tls:' if tls else ''}relay.test:{relay.port}"  # type: ignore[attr-defined]
        node = start(sys.executable, "-c", code, "expose", echo.port, "--via", via, *trust)
        address = node.wait_for(r"exposed \d+ at (\S+)")[1]
        assert visit(address, b"hello") == b"hello"
        assert node.end() == 0
    finally:
        relay.kill()


# --------------------------------------------------------------- other servers


@contextmanager
def server_that(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Answers each connection so; its port."""

    class Answering(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                answer(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = allow_reuse_address = True

    with Server(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def says(words: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(words)
        connection.recv(4096)

    return answer


def closes(connection: socket.socket) -> None:
    connection.recv(10)


def is_silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


ALERT = b"\x15\x03\x01\x00\x02\x02\x46"

OTHERS = [
    ("", says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "an HTTP server answers there"),
    ("", says(b"SSH-2.0-OpenSSH_9.2\r\n"), "an SSH server answers there"),
    ("", says(ALERT), "that port speaks TLS; write tls:127.0.0.1"),
    ("", closes, "closed the connection without a word.*tls:127.0.0.1"),
    ("", is_silent, "no relay answers within 5 s"),
    ("tls:", says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "an HTTP server answers there"),
    ("tls:", says(b"\x5d\x3a\xe6\x5a\x00\x01\x00\x00\x00\x01x"), "speaks no TLS.* 127.0.0.1"),
    ("tls:", closes, "closed the connection in the TLS handshake.* 127.0.0.1"),
    ("tls:", is_silent, "no relay answers within 5 s"),
]


@pytest.mark.parametrize(("prefix", "answer", "told"), OTHERS)
def test_another_kind_of_server_is_named(
    prefix: str, answer: Callable[[socket.socket], None], told: str, expose: Start
) -> None:
    with server_that(answer) as port:
        node = expose(1, "--via", f"{prefix}127.0.0.1:{port}")
        node.wait_for(f"{prefix}127.0.0.1:{port}: .*{told}.*; trying again in .*", stderr=True)
        assert node.end() == 0


def test_a_relay_with_tls_and_one_without_are_told_apart(tmp_path: Path, expose: Start) -> None:
    certificate, key, pin = Authority(tmp_path, "authority").issue("relay")
    options = ("--tls-cert", certificate, "--tls-key", key)
    relay = relay_at(tmp_path, "127.0.0.1", *options, tls="tls:")
    try:
        via = f"127.0.0.1:{relay.port}"  # type: ignore[attr-defined]
        node = expose(1, "--via", via)
        told = f"closed the connection without a word; .* speaks TLS, write tls:{via}"
        node.wait_for(f".*{told}; trying.*", stderr=True)
        assert node.end() == 0
    finally:
        relay.kill()
    plain = Relay(tmp_path / "plain", unused_port(), PORTS)
    try:
        node = expose(1, "--via", f"tls:{plain.via}", "--pin", pin)
        told = f"closed the connection in the TLS handshake; .* no TLS, write {plain.via}"
        node.wait_for(f".*{told}; trying.*", stderr=True)
        assert node.end() == 0
    finally:
        plain.kill()


def test_a_name_that_nobody_has_is_told(start: Start) -> None:
    node = start(
        *(sys.executable, "-c", NAMED.format(names={"locahost": []})),
        *("expose", 1, "--via", "locahost"),
    )
    node.wait_for("locahost:6008: there is no such name; trying again in .*", stderr=True)
    assert node.end() == 0


# --------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("prefix", ["", "tls:"])
def test_a_silent_relay_does_not_put_the_end_off(number: int, prefix: str, expose: Start) -> None:
    with server_that(is_silent) as port:
        node = expose(1, "--via", f"{prefix}127.0.0.1:{port}")
        wait_until(lambda: _peers(node, port))
        began = time.monotonic()
        assert node.end(number) == 0
        assert time.monotonic() - began < 2.0


def _peers(node: Program, port: int) -> bool:
    """Whether it is connected to this port."""
    wanted = f":{port:04X} 01"
    return wanted in Path(f"/proc/{node.process.pid}/net/tcp").read_text()


EARLY = """
import os, signal, sys, threading, time
from proxyservice import command, signals
after, number = float(sys.argv.pop(1)), int(sys.argv.pop(1))
begin, begun = signals.end_at_once_on_signals, []
def begins():
    begin()
    kill = lambda: (time.sleep(after), os.kill(os.getpid(), number))
    if not begun:
        begun.append(threading.Thread(target=kill, daemon=True).start())
signals.end_at_once_on_signals = command.end_at_once_on_signals = begins
if sys.argv[1] == "expose":
    command.main(prog_name="proxyservice")
else:
    from twisted.scripts.twistd import run
    sys.argv[0] = "twistd"
    run()
"""
"""Sends itself a signal so long after the first line of ours that knows what to do with it."""

COMMANDS = [
    ("expose", "1", "--via", "127.0.0.1:1"),
    ("-n", "--pidfile=", "proxynode", "--expose", "1", "--via", "127.0.0.1:1"),
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", COMMANDS, ids=["expose", "twistd"])
def test_a_signal_in_the_first_moments_is_an_end_like_any_other(
    words: tuple[str, ...], number: int, tmp_path: Path
) -> None:
    """While it imports, and until it runs."""
    for step in range(6):
        ran = subprocess.run(
            [sys.executable, "-c", EARLY, str(step * 0.25), str(int(number)), *words],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**os.environ, "STATE_DIRECTORY": str(tmp_path)},
        )
        assert ran.returncode == 0, (step, ran.stderr)
        assert not TRACEBACK.search(ran.stdout + ran.stderr), (step, ran.stderr)


# ------------------------------------------------------------------- terminals


class OnTerminal:
    """`expose` with its stderr on a terminal of a test's own."""

    def __init__(self, tmp_path: Path, *words: object) -> None:
        self._screen, terminal = pty.openpty()
        environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path), "TERM": "xterm"}
        command = [SCRIPTS / "proxyservice", "expose", *map(str, words)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=terminal, env=environment
        )
        os.close(terminal)
        self.seen = ""

    def read_until(self, pattern: str, seconds: float = 20.0) -> None:
        """What comes on the screen, until it has this."""
        until = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            left = until - time.monotonic()
            assert left > 0, f"{pattern!r} is not in {self.seen!r}"
            if select.select([self._screen], [], [], left)[0]:
                self.seen += os.read(self._screen, 4096).decode()

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.kill()
        self.process.wait(15)
        os.close(self._screen)


def test_on_a_terminal_one_sees_that_there_is_no_connection(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, 1, "--via", f"127.0.0.1:{unused_port()}") as node:
        node.read_until(
            r"\rnot connected to 127\.0\.0\.1:\d+, trying again in \S+ s; Connection ref"
        )
        assert "0 visitors" not in node.seen
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(15) == 0


def test_on_a_terminal_what_only_the_user_can_mend_is_the_end(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "relay", unused_port(), PORTS)
    try:
        pins = tmp_path / "known-relays"
        pins.write_text(f"{relay.via} {'00' * 32}\n")
        with OnTerminal(tmp_path, 1, "--via", relay.via) as node:
            node.read_until(f"giving up: {relay.via} is not the relay it was")
            assert node.process.wait(15) == 1
    finally:
        relay.kill()


def test_on_a_terminal_a_certificate_that_will_be_renewed_is_waited_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key, _ = authority.issue("relay", days=-1)
    options = ("--tls-cert", certificate, "--tls-key", key)
    relay = relay_at(tmp_path, "127.0.0.1", *options, tls="tls:")
    try:
        via = f"tls:127.0.0.1:{relay.port}"  # type: ignore[attr-defined]
        with OnTerminal(tmp_path, 1, "--via", via, "--ca", authority.pem) as node:
            node.read_until("certificate has expired .*; trying again in")
            authority.issue("relay")
            relay.process.send_signal(signal.SIGHUP)
            node.read_until("0 visitors, 0 in all", 40.0)
        stranger = Authority(tmp_path, "stranger")
        with OnTerminal(tmp_path, 1, "--via", via, "--ca", stranger.pem) as node:
            node.read_until("giving up: .* is not trusted: .*issuer certificate; .*--ca")
            assert node.process.wait(15) == 1
    finally:
        relay.kill()
