"""Sending to peers: one connection each, reused, and errors that stay where they belong."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.errors import UnreachableError
from proxyservice.node import peers as peers_module
from proxyservice.node.events import NodeEvents
from proxyservice.node.peers import IDLE_SECONDS, PeerLinks
from tests.node.joined import Joined


class Relay(Protocol):
    """A proxy port: it reads."""

    def __init__(self) -> None:
        self.got = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


@implementer(IStreamClientEndpoint)
class ProxyPort:
    def __init__(self) -> None:
        self.up = True
        self.late: list[Deferred[Any]] | None = None
        self.relays: list[Relay] = []
        self.pairs: list[Joined] = []
        self.kernel_bytes = 1 << 20

    def connect(self, factory: Any) -> Deferred[Any]:
        if not self.up:
            return fail(ConnectError())
        if self.late is not None:
            waiting: Deferred[Any] = Deferred()
            self.late.append(waiting)
            return waiting.addCallback(lambda _: self._join(factory))
        return succeed(self._join(factory))

    def _join(self, factory: Any) -> Any:
        client = factory.buildProtocol(None)
        self.relays.append(Relay())
        self.pairs.append(Joined(client, self.relays[-1], self.kernel_bytes))
        return client


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.ports: dict[str, ProxyPort] = {}
        self.links = PeerLinks(self.port, NodeEvents(), self.clock)

    def port(self, address: str) -> ProxyPort:
        return self.ports.setdefault(address, ProxyPort())

    def send(self, address: str, frame: bytes) -> list[Any]:
        results: list[Any] = []
        self.links.send(address, frame).addBoth(results.append)
        return results


def is_unreachable(results: list[Any]) -> bool:
    return isinstance(results[0], Failure) and bool(results[0].check(UnreachableError))


def test_one_connection_carries_all_frames_in_order() -> None:
    scene = Scene()
    assert scene.send("a:1", b"one") == [None]
    assert scene.send("a:1", b"two") == [None]
    port = scene.ports["a:1"]
    port.pairs[0].pump()
    assert [relay.got for relay in port.relays] == [b"onetwo"]


def test_frames_wait_for_the_connection() -> None:
    scene = Scene()
    port = scene.port("a:1")
    port.late = []
    one, two = scene.send("a:1", b"one"), scene.send("a:1", b"two")
    assert one == two == []
    port.late[0].callback(None)
    port.pairs[0].pump()
    assert one == two == [None]
    assert port.relays[0].got == b"onetwo"


def test_a_peer_that_cannot_be_dialled_fails_its_own_sends_alone() -> None:
    scene = Scene()
    scene.port("bad:1").up = False
    assert is_unreachable(scene.send("bad:1", b"x"))
    assert scene.send("good:1", b"x") == [None]
    scene.port("bad:1").up = True
    assert scene.send("bad:1", b"x") == [None]


def test_after_a_loss_the_next_send_dials_anew() -> None:
    scene = Scene()
    scene.send("a:1", b"one")
    port = scene.ports["a:1"]
    port.pairs[0].server.abortConnection()
    assert len(scene.links) == 0
    assert scene.send("a:1", b"two") == [None]
    port.pairs[1].pump()
    assert port.relays[1].got == b"two"


def test_a_send_fires_when_the_frame_has_left() -> None:
    scene = Scene()
    port = scene.port("a:1")
    port.kernel_bytes = 1000
    small, large = scene.send("a:1", b"x" * 1000), scene.send("a:1", b"y" * 200_000)
    assert small == [None]
    assert large == []
    port.pairs[0].pump()
    assert large == [None]


def test_a_peer_that_takes_nothing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "UNSENT_BYTES", 1000)
    scene = Scene()
    port = scene.port("a:1")
    port.kernel_bytes = 0
    waiting = scene.send("a:1", b"x" * 900)
    assert is_unreachable(scene.send("a:1", b"y" * 101))
    assert waiting == []
    port.pairs[0].server.abortConnection()
    assert is_unreachable(waiting)


def test_an_idle_connection_is_closed_and_a_used_one_is_not() -> None:
    scene = Scene()
    scene.send("a:1", b"x")
    scene.clock.advance(IDLE_SECONDS - 1)
    scene.send("a:1", b"y")
    scene.clock.advance(IDLE_SECONDS - 1)
    assert len(scene.links) == 1
    scene.clock.advance(2)
    assert len(scene.links) == 0
    scene.ports["a:1"].pairs[0].pump()
    assert scene.ports["a:1"].relays[0].lost
    assert scene.clock.getDelayedCalls() == []


def test_the_least_recently_used_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "CONNECTIONS", 2)
    scene = Scene()
    for address in ("a:1", "b:1", "a:1", "c:1"):
        assert scene.send(address, b"x") == [None]
    assert len(scene.links) == 2
    scene.send("a:1", b"x")
    assert len(scene.ports["a:1"].pairs) == 1
    scene.send("b:1", b"x")
    assert len(scene.ports["b:1"].pairs) == 2


def test_closing_fails_what_waits_and_leaves_no_timer() -> None:
    scene = Scene()
    port = scene.port("a:1")
    port.late = []
    waiting = scene.send("a:1", b"x")
    scene.send("b:1", b"x")
    scene.links.close()
    assert is_unreachable(waiting)
    assert scene.clock.getDelayedCalls() == []


def test_an_address_that_is_none_leaves_no_link_behind() -> None:
    def dial(address: str) -> Any:
        raise ValueError("no address")

    links = PeerLinks(dial, NodeEvents(), Clock())
    for _ in range(2):
        with pytest.raises(ValueError, match="no address"):
            links.send("none", b"frame")
    assert len(links) == 0


@implementer(IStreamClientEndpoint)
class Raising:
    def connect(self, factory: Any) -> Deferred[Any]:
        raise OSError("an endpoint that raises instead of failing")


def test_an_endpoint_that_raises_fails_this_peer() -> None:
    links = PeerLinks(lambda address: Raising(), NodeEvents(), Clock())
    results: list[Any] = []
    links.send("a:1", b"frame").addBoth(results.append)
    assert is_unreachable(results)
    assert len(links) == 0
