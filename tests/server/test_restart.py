"""What systemd hands over and what it hears: the socket stays, and the words come in time."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxyservice.server.notify import Notifier
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.node.processes import SCRIPTS, Program
from tests.real.conftest import TRACEBACK

UNITS = Path(__file__).parents[2] / "examples" / "systemd"
ADOPT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="main")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What systemd does between fork and exec: the first descriptor that is handed over is 3."""


@pytest.fixture
def hears(tmp_path: Path) -> Iterator[socket.socket]:
    """The far end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(str(tmp_path / "notify"))
        hears.settimeout(15)
        yield hears


# -------------------------------------------------------------------- the notifier


def test_without_a_socket_nothing_is_said_and_nothing_fails() -> None:
    notifier = Notifier({}, 1)
    notifier.ready()
    notifier.alive(1.0)
    notifier.stopping()


def test_each_word_is_a_datagram(hears: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": hears.getsockname()}, 1)
    notifier.ready()
    notifier.alive(1.0)  # no watchdog was asked for
    notifier.stopping()
    assert [hears.recv(100), hears.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_an_abstract_socket_is_written_with_an_at() -> None:
    name = f"proxyservice-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind("\0" + name)
        hears.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}, 1).ready()
        assert hears.recv(100) == b"READY=1"


def test_the_watchdog_is_fed_three_times_in_its_period(hears: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": hears.getsockname(), "WATCHDOG_USEC": "30000000"}
    notifier = Notifier({**environment, "WATCHDOG_PID": "77"}, 77)
    for tick in range(4 * 60):
        notifier.alive(1000 + tick / 4)
    assert [hears.recv(100) for _ in range(6)] == [b"WATCHDOG=1"] * 6
    hears.setblocking(False)
    with pytest.raises(BlockingIOError):
        hears.recv(100)


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_PID": "78", "WATCHDOG_USEC": "1"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "9" * 400},
    ],
    ids=["another process's", "no number", "endless"],
)
def test_what_is_not_our_watchdog_is_not_fed(
    hears: socket.socket, environment: dict[str, str]
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": hears.getsockname(), **environment}, 77)
    notifier.alive(1.0)
    hears.setblocking(False)
    with pytest.raises(BlockingIOError):
        hears.recv(100)


def test_a_listener_that_is_gone_or_full_is_no_harm(hears: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": hears.getsockname()}, 1)
    for _ in range(10_000):  # beyond what the kernel keeps for somebody who does not listen
        notifier.ready()
    hears.close()
    notifier.ready()


# ------------------------------------------------------------------ real processes


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start `twistd proxyservice` with these options, `before` in front of its command."""
    started: list[Program] = []

    def start(*options: object, before: Sequence[object] = (), **environment: str) -> Program:
        twistd = (SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice", "--state-dir", "state")
        ports = 25000 + os.getpid() % 200 * 10
        program = Program(
            tmp_path / "service",
            *(*before, *twistd, "--ports", f"{ports}-{ports + 9}", *options),
            **environment,
        )
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()
        assert not TRACEBACK.search(program.stdout + program.stderr)


@pytest.mark.process
@pytest.mark.heavy
def test_ready_alive_and_stopping_are_told_in_this_order(
    service: Callable[..., Program], hears: socket.socket
) -> None:
    environment = {"NOTIFY_SOCKET": hears.getsockname(), "WATCHDOG_USEC": "750000"}
    running = service("--listen", "tcp:0:interface=127.0.0.1", **environment)
    assert hears.recv(100) == b"READY=1"
    running.wait_for("started: .*")
    assert [hears.recv(100), hears.recv(100)] == [b"WATCHDOG=1"] * 2
    assert running.end(signal.SIGTERM) == 0
    said = {hears.recv(100)}
    while b"STOPPING=1" not in said:
        said.add(hears.recv(100))
    assert said <= {b"WATCHDOG=1", b"STOPPING=1"}


@pytest.mark.process
@pytest.mark.heavy
def test_a_node_that_comes_while_the_service_restarts_waits_in_the_socket(
    service: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=5) as handed_over:
        port = handed_over.getsockname()[1]
        monkeypatch.setattr(Program, "pass_fds", (handed_over.fileno(),))
        before = (sys.executable, "-c", ADOPT, handed_over.fileno())
        running = service("--listen", "systemd:domain=INET:index=0", before=before)
        running.wait_for(f"started: nodes connect to 127.0.0.1 port {port}, .*")
        assert _backlog(handed_over) > 5, "ours, as on every other endpoint"
        with Node(port) as node:
            address = node.lease()
        assert running.end(signal.SIGTERM) == 0
        with Node(port) as early:
            early.ask()
            running.again()
            assert early.answer() == address
        assert running.end(signal.SIGTERM) == 0


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="no systemd here")
def test_systemd_itself_hands_the_socket_over(
    service: Callable[..., Program], free_port: int
) -> None:
    activate = ("systemd-socket-activate", "-l", f"127.0.0.1:{free_port}", "--fdname", "main")
    running = service("--listen", "systemd:domain=INET:name=main", before=activate)
    running.wait_for(f"Listening on 127.0.0.1:{free_port} as 3.", stderr=True)
    with Node(free_port) as node:
        assert node.lease()
    assert running.end(signal.SIGTERM) == 0


def _udp() -> socket.socket:
    handed_over = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    handed_over.bind(("127.0.0.1", 0))
    return handed_over


def _unix() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


@contextmanager
def _connection() -> Iterator[socket.socket]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as handed_over,
    ):
        yield handed_over


def _other_domain() -> socket.socket:
    return socket.create_server(("::1", 0), family=socket.AF_INET6)


def _no_socket() -> io.BufferedReader:
    return open("/dev/null", "rb")


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_udp, "it is no TCP socket; in proxyservice.socket write ListenStream=6008"),
        (_unix, "it is no TCP socket"),
        (_connection, "it is a connection; in proxyservice.socket write Accept=no"),
        (_other_domain, "it is a socket of another domain: write domain=INET6"),
        (_no_socket, "systemd has handed over no such socket"),
    ],
)
def test_what_cannot_be_listened_on_ends_the_start_with_one_line(
    service: Callable[..., Program],
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], AbstractContextManager[Any]],
    why: str,
) -> None:
    with make() as handed_over:
        monkeypatch.setattr(Program, "pass_fds", (handed_over.fileno(),))
        before = (sys.executable, "-c", ADOPT, handed_over.fileno())
        running = service("--listen", "systemd:domain=INET:index=0", before=before)
        assert running.ended() == 2
    assert running.stderr.count("\n") == 1
    assert why in running.stderr


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("endpoint", "status", "why"),
    [
        ("unix:/tmp/nodes", 2, "nodes connect over TCP: write tcp:6008, tcp6:6008 or systemd:"),
        ("tls:unix:/tmp/nodes", 2, "nodes connect over TCP"),
        ("ssl:6009", 2, "nodes connect over TCP"),
        ("stdio:", 2, "nodes connect over TCP"),
        ("tcp:99999", 1, "cannot listen on tcp:99999"),
        ("tcp:-1", 1, "cannot listen on tcp:-1"),
        ("tcp:0:interface=nowhere", 1, "cannot listen on tcp:0:interface=nowhere"),
        ("tcp:0:interface=192.0.2.1", 1, "cannot listen on tcp:0:interface=192.0.2.1"),
        ("tcp:0:interface=" + "x" * 300, 1, "cannot listen on tcp:0:interface=xxx"),
    ],
)
def test_where_nodes_cannot_connect_is_one_line(
    service: Callable[..., Program], endpoint: str, status: int, why: str
) -> None:
    running = service("--listen", endpoint)
    assert running.ended() == status
    assert running.stderr.count("\n") == 1, running.stderr
    assert why in running.stderr


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.parametrize("which", ["INET:index=0", "INET:name=main", "NONE:index=0", "INET"])
def test_without_systemd_its_endpoint_ends_the_start_with_one_line(
    service: Callable[..., Program], which: str
) -> None:
    running = service("--listen", f"systemd:domain={which}")
    assert running.ended() == 2
    assert running.stderr.count("\n") == 1
    assert "systemd has handed over no such socket" in running.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_the_units_are_what_systemd_takes(tmp_path: Path) -> None:
    for unit in UNITS.glob("proxyservice.*"):
        text = unit.read_text().replace("/opt/proxyservice/bin/twistd", sys.executable)
        (tmp_path / unit.name).write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", *sorted(tmp_path.iterdir())], capture_output=True, text=True
    )
    mine = [line for line in verified.stderr.splitlines() if "proxyservice" in line]
    assert mine == []


class Node:
    """A node of part A, by hand."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=15)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def ask(self) -> None:
        sender = pb.ID(net_key=b"k" * 32, address="tcp://127.0.0.1:9", connection_id=b"c" * 32)
        self._connection.sendall(
            encode_message(
                DEFAULT_NETWORK_ID, Opcode.PROXY_REQUEST, pb.ProxyRequest(), sender=sender
            )
        )

    def answer(self) -> str:
        with self._connection.makefile("rb") as stream:
            (size,) = struct.unpack(">6xI", stream.read(10))
            message = pb.Message.FromString(stream.read(size))
        return pb.ProxyResponse.FromString(message.message).proxy_address

    def lease(self) -> str:
        self.ask()
        return self.answer()


def _backlog(listening: socket.socket) -> int:
    """What the kernel says of a listening socket: its `tcpi_sacked` is the backlog."""
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 28)[0])
