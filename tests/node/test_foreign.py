"""Whatever code that is not ours raises, in whatever callback: it ends its own visitor at most.

Another visitor goes on, a new one is served, the lease is held, and the main
connection is dialled again when it is lost.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IPullProducer,
    IPushProducer,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogPublisher
from zope.interface import Interface, implementer

import proxyservice
from proxyservice.errors import RefusedError
from proxyservice.node.events import EVENTS, NodeEvents, guarded
from proxyservice.node.lease import NodeLease
from proxyservice.node.streams import FactoryAcceptor
from proxyservice.wire import proxyservice_pb2 as pb
from tests.leases.harness import store_thread
from tests.net.joined import Echo, Scene, Visitor

MUCH = b"m" * 3_000_000
"""More than fits on the way: whoever writes it is paused."""


class Trouble(BaseException):
    """No Exception: of the kind that `except Exception` lets pass."""


async def _later(error: BaseException) -> None:
    raise error


def _raise(error: BaseException) -> Any:
    raise error


WAYS: dict[str, Callable[[], Any]] = {
    "an exception": lambda: _raise(KeyError("a mistake of the application")),
    "no Exception": lambda: _raise(Trouble()),
    "an exit": lambda: _raise(SystemExit(1)),
    "a cancellation": lambda: _raise(asyncio.CancelledError()),
    "a coroutine": lambda: _later(KeyError("a mistake in a coroutine")),
    "a Deferred": lambda: fail(KeyError("a mistake that is told by a Deferred")),
}


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """The failures that were logged."""
    failures: list[Any] = []

    def note(event: Any) -> None:
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"])

    globalLogPublisher.addObserver(note)
    yield failures
    globalLogPublisher.removeObserver(note)


@implementer(IHalfCloseableProtocol, IPushProducer, IPullProducer)
class Fragile(Protocol):
    """Does one thing of everything; one of its methods fails, in one way, once."""

    transport: Any

    def __init__(self, method: str, way: Callable[[], Any]) -> None:
        self._method, self._way = method, way
        self.failed = False
        self.lost: Any = None
        self._pulled = 0

    def _now(self, method: str) -> Any:
        if method == self._method and not self.failed:
            self.failed = True
            return self._way()
        return None

    def makeConnection(self, transport: Any) -> Any:
        super().makeConnection(transport)
        return self._now("makeConnection")

    def connectionMade(self) -> None:
        if self._method == "connectionMade":
            self._now("connectionMade")

    def dataReceived(self, data: bytes) -> Any:
        if data == b"push":
            self.transport.registerProducer(self, True)
            self.transport.write(MUCH)
        elif data == b"pull":
            self.transport.registerProducer(self, False)
        elif data == b"end":
            self.transport.loseWriteConnection()
        return self._now("dataReceived")

    def readConnectionLost(self) -> Any:
        return self._now("readConnectionLost")

    def writeConnectionLost(self) -> Any:
        return self._now("writeConnectionLost")

    def connectionLost(self, reason: Any = None) -> Any:
        assert self.lost is None, "it is lost once"
        self.lost = reason.value
        return self._now("connectionLost")

    def pauseProducing(self) -> Any:
        return self._now("pauseProducing")

    def resumeProducing(self) -> Any:
        self.transport.write(b"more")
        self._pulled += 1
        return self._now("resumeProducing") if self._pulled > 3 or self.was_pushed else None

    @property
    def was_pushed(self) -> bool:
        return bool(self.transport._producer.is_push)

    def stopProducing(self) -> Any:
        return self._now("stopProducing")


def say(visitor: Visitor, what: bytes) -> None:
    visitor.transport.write(what)


def push(visitor: Visitor, scene: Scene) -> None:
    """Have it pushed until it is paused."""
    visitor.transport.reading = False
    say(visitor, b"push")
    scene.pump()


def read_on(visitor: Visitor, scene: Scene) -> None:
    push(visitor, scene)
    visitor.transport.reading = True


def vanish(visitor: Visitor, scene: Scene) -> None:
    push(visitor, scene)
    visitor.transport.abortConnection()


PROVOKED: dict[str, Callable[[Visitor, Scene], object]] = {
    "makeConnection": lambda visitor, scene: None,
    "connectionMade": lambda visitor, scene: None,
    "dataReceived": lambda visitor, scene: say(visitor, b"anything"),
    "connectionLost": lambda visitor, scene: visitor.transport.abortConnection(),
    "readConnectionLost": lambda visitor, scene: visitor.transport.loseWriteConnection(),
    "writeConnectionLost": lambda visitor, scene: say(visitor, b"end"),
    "pauseProducing": push,
    "resumeProducing": read_on,
    "stopProducing": vanish,
}
"""What a visitor does that has the method called."""

OTHERS_DO = {"logPrefix", "buildProtocol", "doStart", "doStop"}
"""Methods that have tests of their own, below; `logPrefix` is asked by nobody here."""


def names(*interfaces: type[Interface]) -> set[str]:
    return {name for one in interfaces for name in one.names(all=True)}  # type: ignore[attr-defined]


def test_every_method_of_an_application_is_tried() -> None:
    there_are = names(IProtocol, IHalfCloseableProtocol, IPushProducer, IPullProducer)
    assert there_are | names(IProtocolFactory) == set(PROVOKED) | (OTHERS_DO - {"logPrefix"})


class Made(Factory):
    """Echo for all but one visitor."""

    noisy = False

    def __init__(self) -> None:
        self.next: Callable[[], Any] = Echo

    def buildProtocol(self, addr: Any) -> Any:
        make, self.next = self.next, Echo
        return make()


def set_up() -> tuple[Scene, Made]:
    scene, factory = Scene(), Made()
    lease: Any = scene.node._leases.get("web")
    lease.acceptor = FactoryAcceptor(factory, scene.relay.clock)
    return scene, factory


def is_echoed(visitor: Visitor, scene: Scene, what: bytes) -> bool:
    had = len(visitor.got)
    say(visitor, what)
    scene.pump()
    return visitor.got[had:] == what


def check_everybody_else(scene: Scene, bystander: Visitor) -> None:
    """The others are as before, also after the main connection was lost and dialled again."""
    assert is_echoed(bystander, scene, b"still here")
    assert is_echoed(scene.visit(), scene, b"new")
    lease: Any = scene.node._leases.get("web")
    assert lease.granted
    address = lease.address
    scene.main.server.abortConnection()
    scene.pump()
    assert not lease.granted
    assert bystander.lost is not None
    scene.relay.pass_time(5.0)
    scene.pump()
    assert lease.granted
    assert lease.address == address
    assert is_echoed(scene.visit(), scene, b"after the redial")


COMBINED = [
    (method, way)
    for method in PROVOKED
    for way in WAYS
    # Twisted's `Protocol.makeConnection` throws away what `connectionMade` returns.
    if method != "connectionMade" or way not in ("a coroutine", "a Deferred")
]


@pytest.mark.parametrize(("method", "way"), COMBINED)
def test_what_a_protocol_raises_ends_its_visitor_alone(
    method: str, way: str, logged: list[Any]
) -> None:
    scene, factory = set_up()
    bystander = scene.visit()
    assert is_echoed(bystander, scene, b"before")
    fragile = Fragile(method, WAYS[way])
    factory.next = lambda: fragile
    visitor = scene.visit()
    scene.pump()
    PROVOKED[method](visitor, scene)
    scene.pump()
    assert fragile.failed
    assert fragile.lost is not None
    assert isinstance(visitor.lost, BaseException)
    if method not in ("connectionLost", "stopProducing"):  # there the visitor had gone before
        assert isinstance(visitor.lost, ConnectionLost), "a reset, not an end"
    assert len(logged) == 1
    check_everybody_else(scene, bystander)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["connectionLost", "stopProducing"])
def test_everybody_hears_that_the_main_connection_is_lost(
    method: str, way: str, logged: list[Any]
) -> None:
    scene, factory = set_up()
    all_of_them = [Fragile(method, WAYS[way]) for _ in range(3)]
    visitors = []
    for fragile in all_of_them:
        factory.next = lambda fragile=fragile: fragile  # type: ignore[misc]
        visitors.append(scene.visit())
        push(visitors[-1], scene)
    bystander = scene.visit()
    released = scene.node.release(scene.node.lease("other", mode=pb.MODE_STREAMS))
    scene.main.client.abortConnection()
    assert [fragile.failed for fragile in all_of_them] == [True] * 3
    assert [fragile.lost is not None for fragile in all_of_them] == [True] * 3
    assert released.called
    assert len(logged) == 3
    scene.pump()
    assert bystander.lost is not None
    scene.relay.pass_time(5.0)
    scene.pump()
    assert is_echoed(scene.visit(), scene, b"after the redial")


@pytest.mark.parametrize("way", WAYS)
def test_a_factory_that_fails_turns_away_this_visitor(way: str, logged: list[Any]) -> None:
    scene, factory = set_up()
    bystander = scene.visit()
    assert is_echoed(bystander, scene, b"before")
    factory.next = WAYS[way]
    visitor = scene.visit()
    scene.pump()
    assert isinstance(visitor.lost, ConnectionLost)
    assert logged
    check_everybody_else(scene, bystander)


class Bad:
    """An acceptor whose local end fails, or which fails itself; as an application may write it."""

    def __init__(self, method: str, way: Callable[[], Any]) -> None:
        self._method, self._way = method, way
        self.called: list[str] = []

    def accept(self, visit: Any, switch: Any, stream: Any) -> Any:
        stream.local = self
        return self._now("accept")

    def _now(self, method: str) -> Any:
        self.called.append(method)
        return self._way() if method == self._method else None

    def stream_received(self, view: memoryview) -> Any:
        return self._now("stream_received")

    def stream_ended(self) -> Any:
        return self._now("stream_ended")

    def stream_reset(self, code: int, reason: str) -> Any:
        return self._now("stream_reset")

    def stream_ready(self) -> Any:
        return self._now("stream_ready")

    def send_turn(self) -> Any:
        return self._now("send_turn")


@pytest.mark.parametrize("method", ["accept", "stream_received", "stream_ended", "stream_reset"])
@pytest.mark.parametrize("way", ["an exception", "no Exception", "an exit"])
def test_an_acceptor_and_its_local_end_may_fail(method: str, way: str, logged: list[Any]) -> None:
    scene, _ = set_up()
    bystander = scene.visit()
    assert is_echoed(bystander, scene, b"before")
    lease: Any = scene.node._leases.get("web")
    good, lease.acceptor = lease.acceptor, Bad(method, WAYS[way])
    bad = lease.acceptor
    visitor = scene.visit()
    scene.pump()
    lease.acceptor = good
    say(visitor, b"anything")
    scene.pump()
    visitor.transport.loseWriteConnection()
    scene.pump()
    visitor.transport.abortConnection()
    scene.pump()
    assert method in bad.called
    assert bad.called[-1] == "stream_reset", "it hears that it is over"
    assert len(logged) == 1
    check_everybody_else(scene, bystander)


class Receiver(NodeEvents):
    """Fails at everything, and notes it."""

    def __init__(self, way: Callable[[], Any]) -> None:
        self._way = way
        self.told: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name not in EVENTS:
            return super().__getattribute__(name)
        self.told.append(name)
        return lambda *told, **named: self._way()


def test_every_event_is_told_through_the_guard() -> None:
    public = {name for name in vars(NodeEvents) if not name.startswith("_")}
    assert public - {"log", "seconds"} == set(EVENTS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("event", EVENTS)
def test_a_receiver_of_events_may_fail(event: str, way: str, logged: list[Any]) -> None:
    receiver = Receiver(WAYS[way])
    teller = guarded(receiver)
    assert guarded(teller) is teller
    getattr(teller, event)()
    assert receiver.told == [event]
    assert len(logged) == 1


def test_a_node_whose_receiver_and_listeners_fail_is_a_node_all_the_same() -> None:
    scene = Scene()
    scene.node._events.receiver = Receiver(WAYS["an exit"])  # type: ignore[attr-defined]
    lease: Any = scene.node._leases.get("web")
    lease.on_address(lambda address: _raise(KeyError(address)))
    asked: Deferred[str] = lease.when_addressed()
    asked.addErrback(lambda _: None)
    bystander = scene.visit()
    check_everybody_else(scene, bystander)
    assert {"disconnected", "connecting", "connected", "addressed"} <= set(
        scene.node._events.receiver.told  # type: ignore[attr-defined]
    )


def test_who_cancels_its_question_keeps_no_one_from_the_answer() -> None:
    lease = NodeLease("web", pb.MODE_STREAMS)
    heard: list[Any] = []
    first, second = lease.when_addressed(), lease.when_addressed()
    first.addErrback(lambda failure: heard.append("cancelled"))
    first.callback("of its own making")
    second.addCallback(heard.append)
    lease.on_address(lambda address: _raise(Trouble()))
    lease.on_address(heard.append)
    assert lease.grant(pb.ProxyResponse(proxy_address="h:1"))
    assert heard == ["h:1", "h:1"]
    third = lease.when_addressed()
    lease.refuse(RefusedError(pb.REFUSAL_DENIED, "no"))
    third.addCallback(heard.append)
    assert heard[-1] == "h:1"


# -------------------------------------------------------------------- where they are called

_PLACES = ("node", "net/stream_switch.py", "net/outlet.py")
_OF_TRANSPORTS = {"pauseProducing", "resumeProducing", "stopProducing"}
_LOCAL = {"stream_received", "stream_ended", "stream_reset", "stream_ready", "send_turn", "accept"}
FOREIGN = _LOCAL | names(
    IProtocol, IHalfCloseableProtocol, IPushProducer, IPullProducer, IProtocolFactory
)

OURS = {
    "node/client.py: self._factory.buildProtocol",  # the dialler's
    "node/endpoint.py: self._acceptor.accept",  # a `FactoryAcceptor`, called through the guard
    "node/stream_tls.py: tls.makeConnection",  # a `TwoWayTLS`
}
"""Calls that are found and meet no code of others, or meet it on its own errand."""


def unguarded(tree: ast.AST) -> Iterator[str]:
    """Calls of methods that others wrote, which stand neither in a guard's call nor in its try."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = ast.unparse(node.func.value), node.func.attr
        if name not in FOREIGN or owner in ("self", "super()"):
            continue
        if name in _OF_TRANSPORTS and owner.endswith("transport"):
            continue
        if not _is_guarded(node, parents):
            yield f"{owner}.{name}"


def _is_guarded(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    while node in parents:
        above = parents[node]
        if isinstance(above, ast.Call) and ast.unparse(above.func).startswith("foreign."):
            return True
        if isinstance(above, ast.Try) and node in above.body:
            kinds = [ast.unparse(one.type) for one in above.handlers if one.type is not None]
            if "BaseException" in kinds:
                return True
        node = above
    return False


def test_no_callback_is_called_but_through_the_guard() -> None:
    package = Path(proxyservice.__file__).parent
    files = [file for place in _PLACES for file in sorted((package / place).rglob("*.py"))]
    files += [package / place for place in _PLACES if place.endswith(".py")]
    assert len(files) > 25
    found = {
        f"{file.relative_to(package)}: {call}"
        for file in files
        for call in unguarded(ast.parse(file.read_text()))
    }
    assert found == OURS


def test_the_walk_sees_what_is_not_guarded() -> None:
    bare = "def f(self):\n    self.protocol.dataReceived(b'')\n    lease.acceptor.accept(1)\n"
    assert list(unguarded(ast.parse(bare))) == [
        "self.protocol.dataReceived",
        "lease.acceptor.accept",
    ]
    tried = (
        "try:\n    p.dataReceived(b'')\nexcept BaseException as e:\n    foreign.raised('', None, e)"
    )
    assert not list(unguarded(ast.parse(tried)))
    assert not list(unguarded(ast.parse("foreign.call('', None, lambda: p.connectionLost(w))")))
