"""TLS on streams, begun in place or wrapped around: as on TCP, and its ends are honest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet import _producer_helpers
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    ISSLTransport,
    ITLSTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Cooperator
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer
from zope.interface.verify import verifyObject

from proxyservice.net.two_way_tls import TwoWayTLSFactory
from tests.leases.harness import store_thread
from tests.net.joined import Scene
from tests.net.test_eager import Pulled, Pushing
from tests.server.certificates import Authority

MUCH = bytes(range(256)) * 12_000


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class Contexts:
    """Makes OpenSSL's connections of either side."""

    def __init__(self, directory: Path) -> None:
        self._authority = Authority(directory, "ca")
        self._files = self._authority.issue("server", host="localhost")

    def _connection(self, tls: object) -> SSL.Connection:
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate_file(str(self._files[0]))
        context.use_privatekey_file(str(self._files[1]))
        return SSL.Connection(context, None)

    clientConnectionForTLS = serverConnectionForTLS = _connection


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    return Contexts(tmp_path)


@implementer(IHalfCloseableProtocol)
class Speaker(Protocol):
    """Notes what it hears; does what the test wants."""

    transport: Any

    def __init__(self) -> None:
        self.got = b""
        self.ended = False
        self.lost: Any = None
        self.made: Callable[[], None] = lambda: None
        self.then: Callable[[bytes], None] = lambda data: None
        self.read_ended: Callable[[], None] = lambda: None

    def connectionMade(self) -> None:
        self.made()

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        self.then(data)

    def readConnectionLost(self) -> None:
        self.ended = True
        self.read_ended()

    def writeConnectionLost(self) -> None: ...

    def connectionLost(self, reason: Any = None) -> None:
        assert self.lost is None, "it is lost once"
        self.lost = reason.value


class Met:
    """A visitor that speaks TLS from its first byte, and the protocol that it has reached."""

    def __init__(
        self,
        contexts: Contexts,
        *,
        wrapped: bool = False,
        is_client: bool = False,
        begin: Callable[[Met], None] | None = None,
        **memory: Any,
    ) -> None:
        self.contexts = contexts
        self.protocol = Speaker()
        self.is_client = is_client
        if not wrapped:
            self.protocol.made = self.start_tls if begin is None else lambda: begin(self)
        self.scene = Scene(lambda: self._made(wrapped), **memory)
        self.visitor = Speaker()
        clock = self.scene.relay.clock
        factory = TwoWayTLSFactory(contexts, not is_client, _only(self.visitor), clock)
        self.visitor_tls = factory.buildProtocol(None)
        self.scene.relay.visit(self.scene.port, self.visitor_tls, host="127.0.0.1")
        self.scene.pump()

    def _made(self, wrapped: bool) -> Any:
        if not wrapped:
            return self.protocol
        clock = self.scene.relay.clock
        return TLSMemoryBIOFactory(self.contexts, False, _only(self.protocol), clock).buildProtocol(
            None
        )

    def start_tls(self) -> None:
        self.protocol.transport.startTLS(self.contexts, not self.is_client)


def _only(protocol: Protocol) -> Factory:
    return Factory.forProtocol(lambda: protocol)


@pytest.fixture(params=["in place", "in place, as client", "wrapped"])
def met(request: pytest.FixtureRequest, contexts: Contexts) -> Met:
    return Met(
        contexts,
        wrapped=request.param == "wrapped",
        is_client=request.param == "in place, as client",
        kernel_bytes=10_000,
    )


def test_it_is_a_transport_that_can_begin_tls(contexts: Contexts) -> None:
    scene = Scene(Speaker)
    scene.visit()
    scene.pump()
    transport = scene.targets[0].transport
    assert verifyObject(ITLSTransport, transport)
    assert not ISSLTransport.providedBy(transport)
    assert not hasattr(transport, "getPeerCertificate")
    transport.startTLS(contexts)
    assert verifyObject(ISSLTransport, transport)
    assert transport.getPeerCertificate() is None
    with pytest.raises(RuntimeError):
        transport.startTLS(contexts)


def test_what_was_said_before_stays_plain_and_in_order(contexts: Contexts) -> None:
    scene = Scene(Speaker, kernel_bytes=100)
    visitor = scene.visit()
    scene.pump()
    protocol = scene.targets[0]
    visitor.transport.reading = False
    protocol.transport.write(MUCH)
    protocol.transport.startTLS(contexts, False)
    visitor.transport.reading = True
    scene.pump()
    assert visitor.got.startswith(MUCH)
    assert visitor.got[len(MUCH)] == 22, "a TLS record: ClientHello"


def test_both_directions_end_one_by_one(met: Met) -> None:
    met.visitor.transport.write(MUCH)
    met.visitor.transport.loseWriteConnection()
    met.scene.pump()
    assert met.protocol.got == MUCH
    assert met.protocol.ended
    assert met.protocol.lost is None
    met.protocol.transport.write(MUCH[::-1])
    met.protocol.transport.loseWriteConnection()
    met.scene.pump()
    assert met.visitor.got == MUCH[::-1]
    assert met.visitor.ended
    met.scene.pump()
    assert isinstance(met.visitor.lost, ConnectionDone)
    assert isinstance(met.protocol.lost, ConnectionDone)
    assert met.scene.streams() == (0, 0)


def test_the_protocol_may_end_first(met: Met) -> None:
    met.protocol.transport.write(b"all")
    met.protocol.transport.loseWriteConnection()
    met.scene.pump()
    assert (met.visitor.got, met.visitor.ended) == (b"all", True)
    met.visitor.transport.write(MUCH)
    met.visitor.transport.loseWriteConnection()
    met.scene.pump()
    assert met.protocol.got == MUCH
    assert met.protocol.ended
    assert met.protocol.lost is not None


def test_a_close_is_in_order(met: Met) -> None:
    met.visitor.read_ended = lambda: met.visitor.transport.loseConnection()
    met.protocol.transport.write(MUCH)
    met.protocol.transport.loseConnection()
    met.scene.pump()
    assert met.visitor.got == MUCH
    assert met.visitor.ended
    assert met.protocol.lost is not None


def test_an_abort_is_never_taken_for_an_end(met: Met) -> None:
    met.protocol.transport.write(b"half")
    met.scene.pump()
    met.protocol.transport.abortConnection()
    met.scene.pump()
    assert met.visitor.got == b"half"
    assert not met.visitor.ended
    assert isinstance(met.visitor.lost, ConnectionLost)
    assert met.protocol.lost is not None


def test_an_exception_ends_this_visitor(met: Met) -> None:
    bystander = met.scene.visit()
    met.protocol.then = lambda data: [][1]
    met.visitor.transport.write(b"anything")
    met.scene.pump()
    assert not met.visitor.ended
    assert isinstance(met.visitor.lost, ConnectionLost)
    assert met.protocol.lost is not None
    assert bystander.lost is None


def test_a_visitor_that_ends_without_a_word_of_tls_was_cut(met: Met) -> None:
    met.visitor.transport.write(b"half")
    met.scene.pump()
    met.visitor_tls.transport.loseWriteConnection()
    met.scene.pump()
    assert met.protocol.got == b"half"
    assert not met.protocol.ended
    assert isinstance(met.protocol.lost, ConnectionLost)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_push_producer_goes_on(before: bool, contexts: Contexts) -> None:
    producers: list[Pushing] = []

    def begin(met: Met) -> None:
        transport = met.protocol.transport
        producers.append(Pushing(transport, MUCH))
        if not before:
            met.start_tls()
        transport.registerProducer(producers[0], True)
        if before:
            met.start_tls()

    met = Met(contexts, begin=begin, kernel_bytes=10_000)
    met.visitor_tls.transport.reading = False
    producers[0].push()
    met.scene.pump()
    assert producers[0].paused
    assert len(producers[0].left) > len(MUCH) // 2
    met.protocol.transport.loseConnection()  # once the producer is done
    met.visitor_tls.transport.reading = True
    met.scene.pump()
    assert met.visitor.got == MUCH
    assert met.visitor.ended


def test_a_pull_producer_is_asked(met: Met, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = met.scene.relay.clock
    turns = Cooperator(scheduler=lambda call: clock.callLater(0, call))
    monkeypatch.setattr(_producer_helpers, "cooperate", turns.cooperate)  # else the reactor's
    met.protocol.transport.registerProducer(Pulled(met.protocol.transport), False)
    met.protocol.transport.loseConnection()
    for _ in range(600):
        met.scene.pump()
    assert met.visitor.got == b"".join(b"%06d" % number for number in range(500))
    assert met.visitor.ended
