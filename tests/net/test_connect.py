"""Dialled and accepted sockets: connected without a turn on loopback, and with their options."""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from twisted.internet.testing import MemoryReactorClock

from proxyservice.net import connect
from proxyservice.net.connect import Dial, DialFailure
from proxyservice.net.eager import EagerProtocol
from proxyservice.server.ports import ACCEPT_SECONDS, ProxyPorts
from tests.ports import unused_port


class Kept(EagerProtocol):
    def bufferReceived(self, view: memoryview) -> None:
        raise AssertionError("nobody says anything")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def is_configured(handle: socket.socket) -> bool:
    return bool(
        handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        and handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    )


def dial(reactor: MemoryReactorClock, where: int | str) -> tuple[list[Kept], list[DialFailure]]:
    built: list[Kept] = []
    failures: list[DialFailure] = []

    def build() -> Kept:
        built.append(Kept())
        return built[-1]

    place = where if isinstance(where, str) else ("127.0.0.1", where)
    Dial(reactor, place, build, failures.append).start()
    return built, failures


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux does on loopback")
def test_a_dial_on_loopback_needs_no_turn(listening: socket.socket) -> None:
    reactor = MemoryReactorClock()
    built, failures = dial(reactor, listening.getsockname()[1])
    assert len(built) == 1
    assert not failures
    handle = built[0].transport.getHandle()
    assert is_configured(handle)
    assert not reactor.getWriters()
    built[0].transport.abortConnection()
    reactor.advance(0)
    assert not reactor.getDelayedCalls()


def test_a_refused_dial_says_so() -> None:
    reactor = MemoryReactorClock()
    built, failures = dial(reactor, unused_port())
    for writer in reactor.getWriters():  # where the kernel took a moment
        writer.doWrite()
    assert not built
    assert failures == [DialFailure("Connection refused")]
    assert not reactor.getDelayedCalls()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[socket.socket]:
    """A unix socket whose queue of connections is full."""
    with ExitStack() as open_ones:
        listening = open_ones.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(tmp_path / "full"))
        listening.listen(1)
        while True:
            early = open_ones.enter_context(socket.socket(socket.AF_UNIX))
            early.setblocking(False)
            if early.connect_ex(listening.getsockname()) != 0:
                break
        yield listening


def test_a_unix_socket_is_asked_again_until_its_queue_has_room(full: socket.socket) -> None:
    reactor = MemoryReactorClock()
    built, failures = dial(reactor, full.getsockname())
    reactor.pump([0.1] * 20)
    assert not built
    assert not failures
    full.accept()[0].close()
    reactor.pump([0.1])
    assert len(built) == 1
    assert not failures
    assert not reactor.getDelayedCalls()
    assert built[0].transport.getPeer().name == full.getsockname().encode()
    built[0].transport.getHandle().close()


def test_not_for_ever(full: socket.socket) -> None:
    reactor = MemoryReactorClock()
    built, failures = dial(reactor, full.getsockname())
    reactor.pump([0.1] * 99)
    assert not failures, "as long as a TCP connect would take"
    reactor.pump([0.1] * 3)
    assert failures == [DialFailure("its queue of connections is full")]
    assert not built
    assert not reactor.getDelayedCalls()


def test_a_dial_that_is_cancelled_asks_no_more(full: socket.socket) -> None:
    reactor, built, failures = MemoryReactorClock(), [], []
    waiting = Dial(reactor, full.getsockname(), lambda: built.append(1), failures.append)  # type: ignore[func-returns-value,arg-type]
    waiting.start()
    waiting.cancel()
    assert not reactor.getDelayedCalls()
    assert (built, failures) == ([], [])


@pytest.mark.parametrize(
    ("path", "why"), [("absent", "No such file or directory"), ("x" * 200, "File name too long")]
)
def test_a_path_that_leads_nowhere(tmp_path: Path, path: str, why: str) -> None:
    built, failures = dial(MemoryReactorClock(), str(tmp_path / path))
    assert not built
    assert failures == [DialFailure(why)]


def test_want_of_descriptors_says_nothing_of_the_target(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(connect.socket, "socket", none_left)
    built, failures = dial(MemoryReactorClock(), listening.getsockname()[1])
    assert not built
    assert failures == [DialFailure("Too many open files", is_ours=True)]


def test_an_accepted_visitor_has_the_options_of_the_port() -> None:
    reactor, visitor, port = MemoryReactorClock(), Kept(), unused_port()
    ports = ProxyPorts(reactor, "127.0.0.1", lambda port, host, peer: visitor)
    ports.bind(port)
    (listener,) = reactor.getReaders()
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        listener.doRead()
        assert is_configured(visitor.transport.getHandle())
        visitor.transport.getHandle().close()
    ports.close()


def test_a_port_outlives_what_goes_wrong_with_one_visitor() -> None:
    reactor, visitor, port = MemoryReactorClock(), Kept(), unused_port()
    wrong: list[object] = [KeyError("in the gate"), Fragile(), visitor]

    def accept(port: int, host: str, peer: int) -> Kept:
        told = wrong.pop(0)
        if isinstance(told, Exception):
            raise told
        assert isinstance(told, Kept)
        return told

    ports = ProxyPorts(reactor, "127.0.0.1", accept)
    ports.bind(port)
    (listener,) = reactor.getReaders()
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as turned_away:
            listener.doRead()
            reactor.advance(0)
            with pytest.raises(ConnectionResetError):
                turned_away.recv(1)
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        listener.doRead()
        assert visitor.transport is not None
        visitor.transport.getHandle().close()
    ports.close()


def test_a_port_takes_visitors_for_a_bounded_time_in_one_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each that is turned away takes a third of that time, in this test's clock."""
    reactor, port, taken = MemoryReactorClock(), unused_port(), []
    ports = ProxyPorts(reactor, "127.0.0.1", lambda port, host, peer: taken.append(peer))
    ports.bind(port)
    (listener,) = reactor.getReaders()
    monkeypatch.setattr(time, "thread_time", lambda: len(taken) * ACCEPT_SECONDS / 3)
    with ExitStack() as stack:
        for _ in range(7):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        after_turns = []
        for _ in range(3):
            listener.doRead()
            after_turns.append(len(taken))
    assert after_turns == [3, 6, 7]
    ports.close()


class Fragile(Kept):
    def connectionMade(self) -> None:
        raise KeyError("at the beginning")
