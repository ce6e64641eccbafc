"""Of a target that cannot be dialled: an end when it is down, a reset for want of our own room."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import fail, succeed
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from proxyservice.net import connect
from proxyservice.net.tcp_answers import TcpAnswers
from proxyservice.node import forward
from proxyservice.node.events import NodeEvents
from proxyservice.node.forward import FIRST_LOOK_SECONDS, HANDSHAKE_SECONDS, Forwarder
from proxyservice.node.targets import Target, parse_target
from tests.leases.harness import store_thread
from tests.net.joined import Scene, Visitor
from tests.ports import unused_port


class Down(NodeEvents):
    def __init__(self) -> None:
        self.told: list[str] = []

    def target_down(self, target: str, reason: str, *, visitors: int = 1) -> None:
        self.told.append(reason)


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    with store_thread():
        yield


def visited(target: Target) -> tuple[Visitor, Forwarder, list[str]]:
    """A visitor of this target, when all that can happen has happened."""
    events, reactor = Down(), MemoryReactorClock()
    forwarder = Forwarder(reactor, target, preamble=None, events=events)
    scene = Scene(acceptor=forwarder)
    visitor = scene.visit()
    for _ in range(3):
        scene.pump()
        for writer in reactor.getWriters():
            writer.doWrite()
    return visitor, forwarder, events.told


def test_a_target_that_is_down_ends_in_order() -> None:
    visitor, forwarder, told = visited(parse_target(f"127.0.0.1:{unused_port()}"))
    assert visitor.ended
    assert told == ["Connection refused"]
    assert forwarder.open_streams == 0


def test_want_of_descriptors_never_looks_like_an_empty_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(*_: Any) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    scene_socket = socket.socket
    monkeypatch.setattr(connect.socket, "socket", none_left)
    visitor, forwarder, told = visited(parse_target("8080"))
    monkeypatch.setattr(connect.socket, "socket", scene_socket)
    assert not visitor.ended
    assert visitor.lost is not None
    assert told == ["this node has no room (Too many open files), and resets its visitors"]
    assert forwarder.open_streams == 0


@pytest.mark.parametrize(
    ("code", "ended"), [(errno.EMFILE, False), (errno.ENOBUFS, False), (errno.ECONNREFUSED, True)]
)
def test_the_same_of_a_target_that_only_an_endpoint_dials(
    code: int, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def connect(self, factory: Any) -> Any:
            return fail(ConnectError(code, "whatever"))

    monkeypatch.setattr(Target, "client_endpoint", lambda self, reactor: Failing())
    visitor, _, told = visited(Target("db:5432", endpoint="tcp:db:5432"))
    assert visitor.ended == ended
    assert len(told) == 1


class Silent:
    """The endpoint of a TLS server that takes connections and says nothing."""

    def __init__(self) -> None:
        self.transport = StringTransportWithDisconnection()

    def connect(self, factory: Any) -> Any:
        tls = TLSMemoryBIOFactory(optionsForClientTLS("silent.test"), True, factory)
        protocol = self.transport.protocol = tls.buildProtocol(None)
        protocol.makeConnection(self.transport)
        return succeed(protocol)


def test_a_visitor_of_a_target_that_never_answers_tls_is_reset_and_the_user_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events, reactor, silent = Down(), MemoryReactorClock(), Silent()
    monkeypatch.setattr(Target, "client_endpoint", lambda self, reactor: silent)
    target = Target("tls:silent.test:443", endpoint="tls:silent.test:443")
    forwarder = Forwarder(reactor, target, preamble=None, events=events)
    scene = Scene(acceptor=forwarder)
    scene.visit()
    scene.pump()
    reactor.advance(HANDSHAKE_SECONDS - 1)
    assert forwarder.open_streams == 1
    reactor.advance(1)
    assert events.told == ["TLS failed: no answer to it within 30 s"]
    assert forwarder.open_streams == 0
    assert not reactor.getDelayedCalls()


def test_a_target_hears_the_end_when_its_tcp_has_heard_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a full queue of connections Linux may take a FIN for the beginning."""
    heard = [True, True, False]  # unacknowledged
    monkeypatch.setattr(forward, "tcp_answers", lambda _: TcpAnswers(heard.pop(0), 0, False, 0.0))
    reactor = MemoryReactorClock()
    with socket.create_server(("127.0.0.1", 0)) as target:
        where = parse_target(f"127.0.0.1:{target.getsockname()[1]}")
        scene = Scene(acceptor=Forwarder(reactor, where, preamble=None, events=Down()))
        visitor = scene.visit()
        visitor.transport.write(b"all of it")
        visitor.transport.loseWriteConnection()
        scene.pump()
        for writer in reactor.getWriters():
            writer.doWrite()
        with target.accept()[0] as accepted:
            assert accepted.recv(100) == b"all of it"
            accepted.setblocking(False)
            with pytest.raises(BlockingIOError):
                accepted.recv(1)
            reactor.pump([FIRST_LOOK_SECONDS] * 3)
            assert heard == []
            accepted.settimeout(10)
            assert accepted.recv(1) == b""
        for reader in reactor.getReaders():
            reader.doRead()
            reader.connectionLost(Failure(ConnectionDone()))
