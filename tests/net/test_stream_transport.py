"""A stream is a transport of Twisted's: what its protocol may rely on, with a visitor far away."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol
from zope.interface.verify import verifyObject

from proxyservice.net.closed_end import LINGER_SECONDS
from proxyservice.node.stream_transport import SILENT_SECONDS
from proxyservice.streams.windows import DEFAULT_WINDOW_BYTES
from tests.leases.harness import store_thread
from tests.net.joined import Scene, Visitor
from tests.net.test_eager import Pulled, Pushing


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


class Recorder(Protocol):
    """Notes what happens to it, and does what the test wants when bytes come."""

    transport: Any
    then: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.got = b""
        self.lost: Any = None

    def dataReceived(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        assert self.lost is None
        self.got += data
        if self.then is not None:
            self.then()

    def connectionLost(self, reason: Any = None) -> None:
        assert self.lost is None, "it is lost once"
        self.lost = reason.value


def some(n_bytes: int) -> bytes:
    return random.Random(n_bytes).randbytes(n_bytes)


def met(**options: Any) -> tuple[Scene, Visitor, Recorder]:
    scene = Scene(Recorder, **options)
    visitor = scene.visit()
    scene.pump()
    return scene, visitor, scene.targets[0]


def test_it_is_a_transport_that_knows_who_and_where() -> None:
    scene, _, protocol = met()
    transport = protocol.transport
    for interface in (ITCPTransport, IConsumer, IPushProducer):
        assert verifyObject(interface, transport)
    peer, host = transport.getPeer(), transport.getHost()
    assert (peer.host, peer.port) == ("127.0.0.1", 40001)
    assert (host.host, host.port) == ("127.0.0.1", scene.port)
    assert transport.getTcpNoDelay()
    transport.setTcpKeepAlive(True)
    with pytest.raises(TypeError):
        transport.write("text")


def test_paused_reading_holds_a_window_and_loses_nothing() -> None:
    scene, visitor, protocol = met(kernel_bytes=10_000)
    protocol.transport.pauseProducing()
    visitor.transport.write(some(2_000_000))
    visitor.transport.loseWriteConnection()
    scene.pump()
    assert protocol.got == b""
    assert len(visitor.transport.queue) > 2_000_000 - DEFAULT_WINDOW_BYTES - 100_000
    protocol.then = protocol.transport.pauseProducing  # a sip each time
    sips = 0
    while protocol.lost is None:
        protocol.transport.resumeProducing()
        scene.pump()
        sips += 1
    assert protocol.got == some(2_000_000)
    assert isinstance(protocol.lost, ConnectionDone)
    assert sips > 2


def test_a_push_producer_is_paused_while_the_visitor_does_not_read() -> None:
    scene, visitor, protocol = met(kernel_bytes=10_000)
    visitor.transport.reading = False
    said = some(3_000_000)
    producer = Pushing(protocol.transport, said)
    protocol.transport.registerProducer(producer, True)
    with pytest.raises(RuntimeError):
        protocol.transport.registerProducer(producer, True)
    producer.push()
    scene.pump()
    assert producer.paused
    assert len(producer.left) > 1_000_000
    protocol.transport.loseConnection()  # once the producer is done
    visitor.transport.reading = True
    scene.pump()
    assert visitor.got == said
    assert visitor.ended
    assert producer.pauses > 1


def test_a_pull_producer_is_asked_until_it_has_no_more() -> None:
    scene, visitor, protocol = met()
    protocol.transport.registerProducer(Pulled(protocol.transport), False)
    protocol.transport.loseConnection()
    for _ in range(500):
        scene.pump()
    assert visitor.got == b"".join(b"%06d" % number for number in range(500))
    assert visitor.ended


def test_a_producer_of_a_lost_stream_is_stopped() -> None:
    scene, visitor, protocol = met(kernel_bytes=10_000)
    visitor.transport.reading = False
    producer = Pushing(protocol.transport, some(3_000_000))
    protocol.transport.registerProducer(producer, True)
    producer.push()
    scene.pump()
    visitor.transport.abortConnection()
    scene.pump()
    assert isinstance(protocol.lost, ConnectionLost)
    assert producer.stopped
    transport: Any = protocol.transport
    late = Pulled(transport)
    transport.registerProducer(late, False)
    assert late.stopped
    transport.write(b"into nothing")
    transport.loseConnection()
    transport.abortConnection()


@pytest.mark.parametrize("how", ["loseConnection", "abortConnection"])
@pytest.mark.parametrize("when", ["made", "received"])
def test_a_close_from_within_a_call_is_told_afterwards(how: str, when: str) -> None:
    def close(protocol: Recorder) -> None:
        protocol.transport.write(b"last words")
        getattr(protocol.transport, how)()
        assert protocol.lost is None, "never from within the call"

    class Closing(Recorder):
        def connectionMade(self) -> None:
            if when == "made":
                close(self)
            else:
                self.then = lambda: close(self)

    scene = Scene(Closing)
    visitor = scene.visit()
    visitor.transport.write(b"hello")
    scene.pump()
    (protocol,) = scene.targets
    orderly = how == "loseConnection"
    assert isinstance(protocol.lost, ConnectionDone if orderly else ConnectionAborted)
    if orderly:
        assert visitor.got == b"last words"
        assert visitor.ended
        assert visitor.lost is None, "it may go on speaking, to nobody"
    else:
        assert isinstance(visitor.lost, ConnectionLost)


def test_after_a_close_the_visitor_may_speak_for_a_while_and_costs_a_window() -> None:
    scene, visitor, protocol = met(kernel_bytes=10_000)
    protocol.transport.write(b"that is all")
    protocol.transport.loseConnection()
    scene.pump()
    visitor.transport.write(some(3_000_000))
    scene.pump()
    assert visitor.got == b"that is all"
    assert len(visitor.transport.queue) > 2_000_000, "nobody takes it"
    assert visitor.lost is None
    scene.relay.pass_time(LINGER_SECONDS + 1)
    assert isinstance(visitor.lost, ConnectionLost)
    assert scene.streams() == (0, 0)
    assert scene.main.client.protocol.switch.multiplexer.granted_bytes == 0
    assert scene.main.server.connected


class Silent(Pushing):
    """Has nothing more to say, and stays registered."""

    def push(self) -> None:
        portion, self.left = self.left, b""
        self.transport.write(portion)

    def resumeProducing(self) -> None:
        self.paused = False


@pytest.mark.parametrize("streaming", [True, False], ids=["push", "pull"])
def test_a_producer_does_not_put_off_our_end(streaming: bool) -> None:
    scene, visitor, protocol = met(kernel_bytes=10_000)
    visitor.transport.reading = False
    producer = Silent(protocol.transport, some(3_000_000))
    protocol.transport.registerProducer(producer, streaming)
    producer.push()
    protocol.transport.loseWriteConnection()
    scene.pump()
    visitor.transport.reading = True
    scene.pump()
    assert visitor.got == some(3_000_000)
    assert visitor.ended
    assert not producer.paused


def test_a_silent_producer_keeps_no_place_of_a_visitor_that_has_ended() -> None:
    """TCP would not even wait; a protocol without half-close might have an answer under way."""
    scene, visitor, protocol = met()
    producer = Silent(protocol.transport, b"")
    protocol.transport.registerProducer(producer, True)
    visitor.transport.loseWriteConnection()
    for _ in range(3):
        scene.relay.pass_time(SILENT_SECONDS - 1.0)
        scene.pump()
        assert protocol.lost is None
        protocol.transport.write(b"a word")
    scene.relay.pass_time(2 * SILENT_SECONDS)
    scene.pump()
    assert isinstance(protocol.lost, ConnectionLost)
    assert visitor.got == 3 * b"a word"
    assert isinstance(visitor.lost, ConnectionLost), "a reset: what it got may be half of it"
    assert producer.stopped
    assert scene.streams() == (0, 0)


def test_what_is_under_way_for_a_visitor_that_has_ended_arrives() -> None:
    scene, visitor, protocol = met(kernel_bytes=10_000)
    visitor.transport.reading = False
    producer = Pushing(protocol.transport, some(3_000_000))
    protocol.transport.registerProducer(producer, True)
    producer.push()
    visitor.transport.loseWriteConnection()
    scene.pump()
    visitor.transport.reading = True
    scene.pump()
    assert visitor.got == some(3_000_000)
    assert isinstance(visitor.lost, ConnectionDone)


def test_after_an_abort_nothing_is_written_or_delivered() -> None:
    scene, visitor, protocol = met()
    protocol.transport.pauseProducing()
    visitor.transport.write(b"unread")
    scene.pump()
    protocol.transport.abortConnection()
    protocol.transport.write(b"too late")
    protocol.transport.resumeProducing()
    assert protocol.got == b""
    scene.pump()
    assert visitor.got == b""
    assert isinstance(protocol.lost, ConnectionAborted)
