"""The end of a transfer, through relay and node, towards targets of every kind.

Whoever ends its direction has its end heard behind its last byte, and nothing
but that: the other direction goes on. What was cut is reset.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from OpenSSL import SSL

from tests.node.processes import SCRIPTS, Program, Relay, visit, wait_until
from tests.node.targets import (
    Peer,
    Target,
    answer_to,
    cut,
    digest,
    end_first,
    tls_context,
)
from tests.ports import unused_port

pytestmark = [pytest.mark.process, pytest.mark.heavy]

PORTS = range(26000 + os.getpid() % 50 * 40, 26000 + os.getpid() % 50 * 40 + 120)
TRACEBACK = re.compile("Traceback|Unhandled|mistake of ours")
SOME_BYTES = 3_000_000
"""More than any window or buffer on the way has room for."""

KINDS = ("port", "named", "unix", "ssl", "tls", "tls1.2")
WITH_TLS = KINDS[3:]
PATIENCE_SECONDS = 15.0


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    relay = Relay(tmp_path_factory.mktemp("relay"), unused_port(), PORTS)
    yield relay
    assert relay.end(signal.SIGTERM) == 0
    assert not TRACEBACK.search(relay.stdout + relay.stderr)


class Exposed:
    """A target, where it is reached, and the node in between."""

    def __init__(self, target: Target, port: int, address: str, node: Program) -> None:
        self.target = target
        self.port = port
        """Of the target itself; 0 for a unix socket."""
        self.address = address
        self.node = node

    def seen(self) -> object:
        return self.target.seen.get(timeout=PATIENCE_SECONDS)


Exposing = Callable[[str, Callable[[Peer], object]], Exposed]


@pytest.fixture
def exposed(tmp_path: Path, relay: Relay) -> Iterator[Exposing]:
    """A target of this kind, exposed; in the end the node's log has no traceback."""
    left: list[tuple[Target, Program]] = []

    def start(kind: str, serve: Callable[[Peer], object]) -> Exposed:
        listening, named, context = listen(kind, tmp_path)
        target = Target(listening, serve, context)
        words = (SCRIPTS / "proxyservice", "expose", named, "--via", relay.via)
        node = Program(tmp_path / "node", *words, STATE_DIRECTORY=str(tmp_path / "state"))
        left.append((target, node))
        port = 0 if kind == "unix" else listening.getsockname()[1]
        return Exposed(target, port, node.wait_for(r"exposed \S+ at (\S+)")[1], node)

    yield start
    for target, node in left:
        with target:
            node.kill()
            assert not TRACEBACK.search(node.stdout + node.stderr)


def listen(kind: str, directory: Path) -> tuple[socket.socket, str, SSL.Context | None]:
    """A socket, the target's name for `expose`, and its TLS if it has any."""
    if kind == "unix":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(directory / "app.sock"))
        listening.listen(16)
        return listening, f"unix:{directory / 'app.sock'}", None
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    if kind == "port":
        return listening, str(port), None
    if kind == "named":
        return listening, f"tcp:host=localhost:port={port}", None
    newest = SSL.TLS1_2_VERSION if kind == "tls1.2" else SSL.TLS1_3_VERSION
    context = tls_context(directory, newest)
    roots = f"caCertsDir={directory}" if kind == "ssl" else f"trustRoots={directory}"
    return listening, f"{kind[:3]}:localhost:{port}:{roots}", context


def visitor_of(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)


def was_reset(visitor: socket.socket) -> bool:
    """Read to the end; whether that is RST."""
    try:
        while visitor.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_hears_the_end_and_the_visitor_all_of_the_answer(
    kind: str, exposed: Exposing
) -> None:
    there = exposed(kind, digest)
    for size in (0, 5, SOME_BYTES):
        said = os.urandom(size)
        assert visit(there.address, said) == answer_to(said)
        assert there.seen() == (size, "in order")


@pytest.mark.parametrize("kind", KINDS)
def test_a_visitor_that_sends_and_goes_is_heard_to_its_end(kind: str, exposed: Exposing) -> None:
    there = exposed(kind, Peer.read_all)
    said = os.urandom(SOME_BYTES)
    with visitor_of(there.address) as visitor:
        visitor.sendall(said)
    assert there.seen() == (said, "in order")


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_that_ends_first_still_hears_everything(kind: str, exposed: Exposing) -> None:
    there = exposed(kind, end_first)
    with visitor_of(there.address) as visitor:
        with visitor.makefile("rb") as answer:
            assert answer.read() == answer_to(b"")
        visitor.sendall(os.urandom(SOME_BYTES))
        visitor.shutdown(socket.SHUT_WR)
        assert there.seen() == (SOME_BYTES, "in order")


@pytest.mark.parametrize("kind", WITH_TLS)
def test_tls_that_ends_without_a_word_was_cut(kind: str, exposed: Exposing) -> None:
    there = exposed(kind, cut)
    with visitor_of(there.address) as visitor:
        assert was_reset(visitor)


@pytest.mark.parametrize(
    ("host", "roots", "why"),
    [
        ("localhost", "", "certificate verify failed"),
        ("127.0.0.1", "trustRoots={0}", "its certificate is for another name"),
    ],
)
def test_who_cannot_be_trusted_is_named(
    host: str, roots: str, why: str, tmp_path: Path, relay: Relay, exposed: Exposing
) -> None:
    there = exposed("tls", digest)
    words = roots.format(tmp_path)
    named = ":".join(filter(None, ["tls", host, str(there.port), words]))
    command = (SCRIPTS / "proxyservice", "expose", named, "--via", relay.via)
    node = Program(tmp_path / "other", *command, STATE_DIRECTORY=str(tmp_path / "other-state"))
    try:
        address = node.wait_for(r"exposed \S+ at (\S+)")[1]
        with visitor_of(address) as visitor:
            assert was_reset(visitor)
        node.wait_for(f"target .* is down: TLS failed: {why}", stderr=True)
    finally:
        node.kill()


# ------------------------------------------------------------ a process that is killed


HALF = b"half of a question"


def half_an_answer(peer: Peer) -> object:
    said = peer.connection.recv(len(HALF))
    peer.connection.sendall(b"half of it")
    rest, how = peer.read_all()
    return said + rest, how


@pytest.mark.parametrize("killed", ["relay", "node"])
@pytest.mark.parametrize("kind", ["port", "named"])
def test_who_is_killed_in_a_transfer_cuts_it_on_both_ends(
    killed: str, kind: str, tmp_path: Path, exposed: Exposing, request: pytest.FixtureRequest
) -> None:
    relay: Relay = request.getfixturevalue("relay")
    there = exposed(kind, half_an_answer)
    with visitor_of(there.address) as visitor:
        visitor.sendall(HALF)
        assert visitor.recv(4, socket.MSG_WAITALL) == b"half"
        (relay if killed == "relay" else there.node).process.kill()
        assert was_reset(visitor)
    said, how = there.seen()  # type: ignore[misc]  # as `half_an_answer` has it
    assert said == HALF
    assert "ConnectionResetError" in how
    if killed == "relay":
        relay.process.wait()
        relay.again()


FIN_WAIT, LAST_ACK = "04", "09"
"""Of sockets that have ended before or after their peers: the kernel delivers the rest."""


def has_ended(port: int, state: str) -> bool:
    """Whether a socket at this local port has been ended in order, and not been heard yet."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(one[1].endswith(f":{port:04X}") and one[3] == state for one in sockets)


def slow_visitor(address: str) -> tuple[socket.socket, int]:
    """Whoever has little room for what it hears; and its proxy port."""
    host, _, port = address.rpartition(":")
    visitor = socket.socket()
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    visitor.settimeout(PATIENCE_SECONDS)
    visitor.connect((host, int(port)))
    return visitor, int(port)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's table of sockets")
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_whole_though_its_target_hears_no_more(kind: str, exposed: Exposing) -> None:
    """It has ended and is gone, and the visitor goes on: the reset waits until he has read."""
    go = threading.Event()

    def gone_after_its_answer(peer: Peer) -> object:
        peer.connection.sendall(answer_to(b""))
        peer.end()
        return go.wait(PATIENCE_SECONDS)

    there = exposed(kind, gone_after_its_answer)
    visitor, port = slow_visitor(there.address)
    with visitor:
        visitor.sendall(b"something")
        wait_until(lambda: has_ended(port, FIN_WAIT), what="the end is in the relay's kernel")
        go.set()
        assert there.seen() is True
        for _ in range(20):
            visitor.sendall(os.urandom(10_000))  # into nothing, and that is noticed on the way
        with visitor.makefile("rb") as answer:
            assert answer.read() == answer_to(b"")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's table of sockets")
@pytest.mark.parametrize("kind", ["port", "named"])
def test_what_ended_in_order_is_whole_though_all_are_killed_then(
    kind: str, relay: Relay, exposed: Exposing
) -> None:
    """Also while the kernel still has most of it: who reads late reads all."""
    there = exposed(kind, digest)
    visitor, port = slow_visitor(there.address)
    with visitor:
        visitor.sendall(b"all")
        visitor.shutdown(socket.SHUT_WR)
        assert there.seen() == (3, "in order")
        wait_until(lambda: has_ended(port, LAST_ACK), what="the end is in the kernel")
        there.node.process.kill()
        relay.process.kill()
        relay.process.wait()
        with visitor.makefile("rb") as answer:
            assert answer.read() == answer_to(b"all")
    relay.again()


@pytest.mark.parametrize("kind", ["port", "named", "unix", "tls"])
def test_a_node_that_is_stopped_in_a_transfer_cuts_it(kind: str, exposed: Exposing) -> None:
    there = exposed(kind, half_an_answer)
    with visitor_of(there.address) as visitor:
        visitor.sendall(HALF)
        assert visitor.recv(4, socket.MSG_WAITALL) == b"half"
        assert there.node.end(signal.SIGTERM) == 0
        assert was_reset(visitor)
    said, how = there.seen()  # type: ignore[misc]  # as `half_an_answer` has it
    assert said == HALF
    assert ("in order" in how) == (kind == "unix"), "a unix socket knows no reset"
    assert "ConnectionResetError" in how or kind in ("unix", "tls")
