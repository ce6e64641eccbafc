"""The store fails under the running service: what is there is served, and it recovers by itself."""

from __future__ import annotations

import os
import select
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from proxyservice.wire import proxyservice_pb2 as pb
from tests.attacks.kit import proxy_request, receive_message
from tests.node.processes import SCRIPTS, EchoServer, Program, Relay, visit, wait_until
from tests.real.conftest import address_of
from tests.survive.conftest import PORTS, Expose, Relays, unused_port

pytestmark = [pytest.mark.process, pytest.mark.heavy]

WAITS_SECONDS = 2.0
"""A node that has no answer by then is one whose request waits for a store that can be written."""


def lease(relay: Relay, number: int, seconds: float = 20.0) -> str | None:
    """The address that a new node gets; None when it waits for one, or is closed instead."""
    with socket.create_connection(("127.0.0.1", relay.port), timeout=20) as node:
        node.sendall(proxy_request(number))
        node.settimeout(seconds)
        try:
            message = receive_message(node)
        except (ConnectionError, TimeoutError):
            return None
        return pb.ProxyResponse.FromString(message.message).proxy_address


def keeps_serving_until(relay: Relay, exposing: Program, address: str, what: str) -> None:
    """What was leased is served, nothing new is leased, and it is said once."""
    number = 100
    wait_until(lambda: lease(relay, number, WAITS_SECONDS) is None, what=relay.stdout)
    relay.wait_for(f"store .* cannot be written: .*{what}.*; new leases are refused until it can")
    assert visit(address, b"still") == b"still"
    assert lease(relay, number + 1, WAITS_SECONDS) is None
    assert "again" not in exposing.stderr, "the node was never lost"


def recovers(relay: Relay, address: str) -> None:
    relay.wait_for("the store can be written again")
    assert lease(relay, 102) is not None
    assert visit(address, b"hello") == b"hello"
    assert relay.stdout.count("new leases are refused") == 1, "said once"


def test_a_store_that_another_program_locks(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays()
    exposing = expose(echo.port, "--via", relay.via)
    address = address_of(exposing, echo.port)
    path = relay.directory / "state" / "leases.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        keeps_serving_until(relay, exposing, address, "locked")
    recovers(relay, address)
    assert relay.end() == 0


@pytest.fixture
def small_state(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB where the first relay keeps its state."""
    directory = tmp_path / "relay-0" / "state"
    directory.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(directory)]
    if os.getuid() != 0 or shutil.which("mount") is None or subprocess.run(mount).returncode:
        pytest.skip("a small file system can only be had by root")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(disk: Path) -> Path:
    """The file that took all there was."""
    full = disk / "something else"
    with full.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))
    return full


def test_a_full_disk(small_state: Path, relays: Relays, expose: Expose, echo: EchoServer) -> None:
    relay = relays()
    exposing = expose(echo.port, "--via", relay.via)
    address = address_of(exposing, echo.port)
    full = fill(small_state)
    keeps_serving_until(relay, exposing, address, "full")
    full.unlink()
    recovers(relay, address)
    assert relay.end() == 0


# ------------------------------------------------------- what is between it and the disk


class Disk:
    """Under the first relay's store: what the disk does with each write and sync."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def does(self, what: str) -> None:
        """`ENOSPC`, `EIO`, `EROFS`, `wait`, or nothing of that; from now on, and all at once."""
        beside = self._path.with_suffix(".new")
        beside.write_text(what)
        beside.rename(self._path)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that stands between a program and its disk."""
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler")
    command = [compiler, "-shared", "-fPIC", "-Wall", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture
def disk(faults: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Of what is started from now on."""
    monkeypatch.setenv("LD_PRELOAD", str(faults))
    monkeypatch.setenv("STORE", str(tmp_path.resolve() / "relay-0" / "state" / "leases.sqlite"))
    monkeypatch.setenv("STORE_FAULT", str(tmp_path / "fault"))
    return Disk(tmp_path / "fault")


@pytest.mark.parametrize(
    ("error", "what"),
    [("ENOSPC", "full"), ("EIO", "disk I/O error"), ("EROFS", "disk I/O error")],
)
def test_a_disk_that_fails_for_a_while(
    disk: Disk, relays: Relays, expose: Expose, echo: EchoServer, error: str, what: str
) -> None:
    relay = relays()
    exposing = expose(echo.port, "--via", relay.via)
    address = address_of(exposing, echo.port)
    disk.does(error)
    keeps_serving_until(relay, exposing, address, what)
    disk.does("")
    recovers(relay, address)
    relay.kill()
    relay.again()
    exposing.wait_for(f"{echo.port} is reached at {address} again", stderr=True)


def test_a_commit_that_takes_its_time_makes_nobody_wait_but_those_who_lease(
    disk: Disk, relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays()
    exposing = expose(echo.port, "--via", relay.via)
    address = address_of(exposing, echo.port)
    disk.does("wait")
    with ExitStack() as stack:
        nodes = [stack.enter_context(relay.connect()) for _ in range(20)]
        for number, node in enumerate(nodes):
            node.sendall(proxy_request(number))
        for _ in range(20):
            assert visit(address, b"meanwhile") == b"meanwhile"
        assert select.select(nodes, [], [], 0) == ([], [], []), "announced before it is on disk"
        disk.does("")
        ports = {receive_message(node).message for node in nodes}
        assert len(ports) == len(nodes)
    assert "cannot be written" not in relay.stdout
    assert "again" not in exposing.stderr, "the node was never lost"


# ------------------------------------------------------------------------- at the start


def test_a_damaged_store_ends_the_start_with_one_line_and_stays_as_it_is(
    relays: Relays, tmp_path: Path
) -> None:
    relay = relays()
    assert lease(relay, 1) is not None
    assert relay.end() == 0
    path = relay.directory / "state" / "leases.sqlite"
    damaged = b"\0" * 100 + path.read_bytes()[100:]
    path.write_bytes(damaged)
    again = Program(
        tmp_path / "again",
        *(SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice"),
        *("--state-dir", path.parent, "--listen", f"tcp:{unused_port()}:interface=127.0.0.1"),
        *("--ports", f"{PORTS.start}-{PORTS.stop - 1}"),
    )
    assert again.ended() == 1
    (line,) = again.stderr.splitlines()
    assert str(path) in line
    assert "restore a backup, or move it away" in line
    assert path.read_bytes() == damaged
