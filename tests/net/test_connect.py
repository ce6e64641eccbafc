"""Dialled and accepted sockets: connected without a turn on loopback, and with their options."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest
from twisted.internet.testing import MemoryReactorClock

from proxyservice.net.connect import Dial
from proxyservice.net.eager import EagerProtocol
from proxyservice.server.ports import ProxyPorts
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


def dial(reactor: MemoryReactorClock, port: int) -> tuple[list[Kept], list[str]]:
    built: list[Kept] = []
    failures: list[str] = []

    def build() -> Kept:
        built.append(Kept())
        return built[-1]

    Dial(reactor, "127.0.0.1", port, build, failures.append).start()
    return built, failures


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux does on loopback")
def test_a_dial_on_loopback_needs_no_turn(listening: socket.socket) -> None:
    reactor = MemoryReactorClock()
    built, failures = dial(reactor, listening.getsockname()[1])
    assert len(built) == 1
    assert not failures
    handle = built[0].transport.getHandle()
    assert is_configured(handle)
    assert not reactor.getDelayedCalls()
    assert not reactor.getWriters()
    handle.close()


def test_a_refused_dial_says_so() -> None:
    reactor = MemoryReactorClock()
    built, failures = dial(reactor, unused_port())
    for writer in reactor.getWriters():  # where the kernel took a moment
        writer.doWrite()
    assert not built
    assert failures == ["Connection refused"]
    assert not reactor.getDelayedCalls()


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
