"""ssh, a WebSocket, nc with half-close, Twisted's own servers, a browser: through the service."""

from __future__ import annotations

import ftplib
import getpass
import hashlib
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.processes import SCRIPTS, Program, Relay, wait_until
from tests.real import websocket
from tests.real.conftest import (
    Run,
    address_of,
    needs,
    program,
    socket_address,
    unused_port,
)

pytestmark = [pytest.mark.process, pytest.mark.heavy]
TWISTD = (SCRIPTS / "twistd", "-n", "--pidfile=")


# ------------------------------------------------------------------------------ ssh

SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
PidFile {directory}/sshd.pid
PasswordAuthentication no
StrictModes no
UsePAM no
PermitRootLogin yes
"""


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[int]:
    """The port of a server that lets this user in with the key `user`."""
    if os.getuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("sshd as root wants /run/sshd")
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    port = unused_port()
    configuration = tmp_path / "sshd_config"
    configuration.write_text(SSHD.format(port=port, directory=tmp_path))
    server = Program(tmp_path / "sshd", program("sshd"), "-D", "-e", "-f", configuration)
    server.wait_for("Server listening on .*", stderr=True)
    yield port
    server.end(signal.SIGTERM)


@needs("ssh", "sshd", "ssh-keygen")
def test_ssh_runs_a_command_and_carries_data_both_ways(
    relay: Relay, expose: Run, sshd: int, tmp_path: Path
) -> None:
    host, port = socket_address(address_of(expose(sshd, "--via", relay.via), sshd))
    command = [
        *("ssh", "-F", "none", "-i", tmp_path / "user", "-p", str(port), "-o", "BatchMode=yes"),
        *("-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=accept-new"),
        *("-o", f"UserKnownHostsFile={tmp_path}/hosts", f"{getpass.getuser()}@{host}"),
    ]
    said = os.urandom(8 << 20)
    ran = subprocess.run(
        [*command, "cat; echo the end >&2; exit 7"], input=said, capture_output=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (7, said), ran.stderr
    assert b"the end" in ran.stderr


# ------------------------------------------------------------------------- WebSocket


class WebSocketServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


def test_a_websocket_lives_on_and_both_sides_speak_when_they_like(
    relay: Relay, expose: Run
) -> None:
    with WebSocketServer(("127.0.0.1", 0), websocket.EchoHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = server.server_address[1]
        address = socket_address(address_of(expose(port, "--via", relay.via), port))
        client = websocket.Client(address)
        assert client.hear() == (websocket.PING, b"are you there")
        client.say(websocket.PONG, b"are you there")
        for size in (0, 1, 125, 126, 65_535, 65_536, 1 << 20):
            text = b"x" * size
            client.say(websocket.TEXT, text)
            assert client.hear() == (websocket.TEXT, text)
        for number in range(300):
            client.say(websocket.PING, b"%d" % number)
            assert client.hear() == (websocket.PONG, b"%d" % number)
        client.say(websocket.CLOSE, b"")
        assert client.hear() == (websocket.CLOSE, b"")
        client.close()
        server.shutdown()


# ------------------------------------------------------------------------- half-close


@needs("nc", "socat", "sha256sum")
def test_the_answer_comes_after_the_end_of_what_nc_was_given(
    relay: Relay, expose: Run, run: Run
) -> None:
    port = unused_port()
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
    run("socat", "-t", "10", listen, "EXEC:sha256sum")  # it answers at the end of its input
    wait_until(lambda: _listens(port))
    host, exposed_port = socket_address(address_of(expose(port, "--via", relay.via), port))
    for said in (b"", b"hello", os.urandom(3 << 20)):
        ran = subprocess.run(
            ["nc", "-N", host, str(exposed_port)], input=said, capture_output=True, timeout=30
        )
        assert ran.stdout.split()[:1] == [hashlib.sha256(said).hexdigest().encode()]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --------------------------------------------------- Twisted's own, over `proxied:`


def proxied(relay: Relay, tmp_path: Path, origin: str) -> str:
    return f"proxied:{relay.via}:origin={origin}:key={tmp_path}/node.key"


def reached(serving: Program, origin: str) -> tuple[str, int]:
    return socket_address(serving.wait_for(rf"{origin} is reached at (\S+)")[1])


class Lines:
    """A visitor of a server that speaks in lines."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=15)
        self._in = self.socket.makefile("rb")

    def say(self, line: str) -> None:
        self.socket.sendall(line.encode() + b"\r\n")

    def hear(self, pattern: str) -> str:
        """The next line that fits; others are passed over."""
        while line := self._in.readline():
            text = line.decode().rstrip("\r\n")
            if re.search(pattern, text):
                return text
        raise AssertionError(f"it ended without {pattern!r}")

    def close(self) -> None:
        self._in.close()
        self.socket.close()


def test_twisted_words_lets_two_people_talk(relay: Relay, run: Run, tmp_path: Path) -> None:
    words = ("words", "--irc-port", proxied(relay, tmp_path, "irc"))
    serving = run(*TWISTD, *words, "--auth", "memory:ann:secret:bob:secret")
    address = reached(serving, "irc")
    ann, bob = Lines(address), Lines(address)
    for name, person in (("ann", ann), ("bob", bob)):
        for line in ("PASS secret", f"NICK {name}", f"USER {name} x x :x"):
            person.say(line)
        person.hear(rf" 00[1-4] {name} ")
    for number in range(50):
        ann.say(f"PRIVMSG bob :question {number}")
        bob.hear(rf"^:ann.* :question {number}$")
        bob.say(f"PRIVMSG ann :answer {number}")
        ann.hear(rf"^:bob.* :answer {number}$")
    ann.close()
    bob.close()
    serving.end(signal.SIGTERM)


SERVE = """
import sys
from twisted.internet import endpoints, reactor
{make}
listening = endpoints.serverFromString(reactor, sys.argv[1]).listen(factory)
listening.addCallback(
    lambda port: print("serving at %s:%d" % (port.getHost().host, port.getHost().port), flush=True)
)
reactor.run()
"""

CHAT = """
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver

class Chat(LineReceiver):
    def connectionMade(self):
        self.factory.people.append(self)
        peer, host = self.transport.getPeer(), self.transport.getHost()
        self.sendLine(f"you are {peer.host}:{peer.port} at {host.host}:{host.port}".encode())
    def lineReceived(self, line):
        for one in self.factory.people:
            one.sendLine(line)
    def connectionLost(self, reason):
        self.factory.people.remove(self)

factory = Factory.forProtocol(Chat)
factory.people = []
"""

FTP = """
from twisted.cred.checkers import AllowAnonymousAccess
from twisted.cred.portal import Portal
from twisted.protocols.ftp import FTPFactory, FTPRealm

factory = FTPFactory(Portal(FTPRealm(sys.argv[2]), [AllowAnonymousAccess()]))
"""


def serve(run: Run, make: str, *words: object) -> tuple[str, int]:
    """A program that listens with this factory; the address of it."""
    serving = run(sys.executable, "-c", SERVE.format(make=make), *words)
    return socket_address(serving.wait_for(r"serving at (\S+)")[1])


def test_a_line_receiver_knows_its_visitors(relay: Relay, run: Run, tmp_path: Path) -> None:
    address = serve(run, CHAT, proxied(relay, tmp_path, "chat"))
    people = [Lines(address) for _ in range(10)]
    for person in people:
        host, port = person.socket.getsockname()
        expected = f"you are {host}:{port} at {address[0]}:{address[1]}"
        assert person.hear("you are") == expected
    for number, speaker in enumerate(people):
        speaker.say(f"line {number}")
        for person in people:
            person.hear(f"^line {number}$")
    for person in people:
        person.close()


def test_twisted_ftp_lets_somebody_in(relay: Relay, run: Run, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_text("12345")
    address = serve(run, FTP, proxied(relay, tmp_path, "ftp"), tmp_path / "files")
    with ftplib.FTP() as client:
        client.connect(*address, timeout=15)
        client.login()
        assert client.pwd() == "/"
        assert client.size("a") == 5


# ---------------------------------------------------------------------- web, a browser


@pytest.fixture
def web(relay: Relay, run: Run, tmp_path: Path) -> Any:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "index.html").write_text(
        "<title>a page</title><p id=p>as sent</p><script src=code.js></script>"
    )
    (folder / "code.js").write_text("document.getElementById('p').textContent = 'by script'")
    listen = ("--listen", proxied(relay, tmp_path, "web"))
    serving = run(SCRIPTS / "twist", "--log-format=text", "web", *listen, "--path", folder)
    host, port = reached(serving, "web")
    return f"http://{host}:{port}/"


@needs("curl")
def test_curl_reads_a_page_of_twist_web(web: str) -> None:
    ran = subprocess.run(
        ["curl", "-sSf", "--max-time", "15", web, f"{web}code.js"], capture_output=True, check=True
    )
    assert b"a page" in ran.stdout
    assert b"by script" in ran.stdout


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(BROWSER is None, reason="chromium not installed")
def test_a_browser_shows_a_page_of_twist_web(web: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--disable-gpu", "--no-sandbox", "--no-first-run"),
            *("--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/browser"),
            *("--disable-background-networking", "--disable-component-update"),
            *("--virtual-time-budget=5000", "--dump-dom", web),
        ],
        capture_output=True,
        timeout=60,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert b'<p id="p">by script</p>' in ran.stdout, ran.stderr
