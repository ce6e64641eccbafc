"""The endpoint `proxied:`: how it is written, and how endpoints of one process share a node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.protocols.wire import Echo
from zope.interface.verify import verifyObject

from proxyservice.errors import RefusedError, StartError
from proxyservice.node import endpoint
from proxyservice.node.endpoint import ProxiedServerEndpoint
from proxyservice.node.keys import load_key, public_bytes
from proxyservice.node.tls import TLSTrust
from proxyservice.node.tokens import write_token
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from proxyservice.wire.tokens import Token
from tests.node.scripted import ScriptedConnection, ScriptedServer, grant, run

READ = {
    "relay": ["relay:6008"],
    "127.0.0.1:7": ["127.0.0.1:7"],
    "[2001:db8::1]:7": ["[2001:db8::1]:7"],
    r"[2001\:db8\:\:1]": ["[2001:db8::1]:6008"],
    "servers=a:1,b": ["a:1", "b:6008"],
    r"servers=a\:1,b": ["a:1", "b:6008"],
    "origin=web:servers=[::1]:7,b:key=x": ["[::1]:7", "b:6008"],
}


@pytest.mark.parametrize("text", READ)
def test_servers_as_written(text: str) -> None:
    read: Any = serverFromString(reactor, f"proxied:{text}")
    assert verifyObject(IStreamServerEndpoint, read)
    assert [server.name for server in read._servers] == READ[text]


def test_keywords_as_written() -> None:
    read: Any = serverFromString(reactor, "proxied:relay:key=my.key:origin=web:release=yes")
    assert read._key_file == Path.cwd() / "my.key"
    assert (read._origin, read._release) == ("web", True)
    read = serverFromString(reactor, "proxied:relay:release=no")
    assert (read._key_file, read._origin, read._release) == (None, "", False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no HOST"),
        ("a:b", "is no HOST"),
        ("a:7:servers=b", "write proxied:HOST.* or proxied:servers="),
        ("servers=", "is no HOST"),
        ("servers=a,,b", "is no HOST"),
        ("a:colour=red", "no option 'colour'"),
        ("a:release=maybe", "neither yes nor no"),
        ("a:tls=yes:pin=00", "is no pin"),
        ("a:pin=" + "ab" * 32, "tls=yes"),
        ("a:ca=/nonexistent", "tls=yes"),
        ("a:cert=/nonexistent", "tls=yes"),
        ("a:tls=yes:ca=/nonexistent", "cannot read /nonexistent"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^proxied: .*{reason}") as error:
        serverFromString(reactor, f"proxied:{text}")
    assert str(error.value).isprintable()


# ------------------------------------------------------------------- listening


def challenge(connection: ScriptedConnection, message: pb.Message) -> None:
    connection.say(
        Opcode.CHALLENGE,
        pb.Challenge(version=1, server_nonce=b"n" * 32, relay_id=b"r" * 32, valid_for_ms=10_000),
    )


def welcome(connection: ScriptedConnection, message: pb.Message) -> None:
    features = 1 << pb.FEATURE_STREAMS | 1 << pb.FEATURE_RELEASE
    connection.say(Opcode.WELCOME, pb.Welcome(features=features, proved=True))


def confirm_release(connection: ScriptedConnection, message: pb.Message) -> None:
    connection.say(Opcode.RELEASE, message.message, message.request_nonce)


def refuse(connection: ScriptedConnection, message: pb.Message) -> None:
    refusal = pb.Refusal(code=pb.REFUSAL_UNSUPPORTED, reason="enough is enough")
    connection.say(Opcode.REFUSAL, refusal, message.request_nonce)


class Scene:
    """A scripted server that speaks part B, a clock, and endpoints that use them."""

    def __init__(self, key: Path) -> None:
        self.clock = Clock()
        self.key = key
        self.server = ScriptedServer()
        self.server.clock = self.clock
        self.server.script |= {
            Opcode.HELLO: challenge,
            Opcode.PROOF: welcome,
            Opcode.PROXY_REQUEST: grant,
            Opcode.RELEASE: confirm_release,
        }

    def endpoint(self, origin: str = "", **options: Any) -> ProxiedServerEndpoint:
        options.setdefault("key", self.key)
        return ProxiedServerEndpoint(
            self.clock, [self.server.as_server()], origin=origin, **options
        )

    def listen(self, origin: str = "", **options: Any) -> Any:
        listening = self.endpoint(origin, **options).listen(EchoFactory())
        self.run()
        return result_of(listening)

    def stop(self, port: Any) -> None:
        stopped = port.stopListening()
        self.run(1.0)
        assert result_of(stopped) is None

    def run(self, seconds: float = 0.1) -> None:
        run(self.clock, [self.server], seconds)

    def asked_for(self) -> list[str]:
        return [
            pb.ProxyRequest.FromString(message.message).origin_address
            for message in self.server.last.heard
            if message.opcode == Opcode.PROXY_REQUEST
        ]


class EchoFactory(Factory):
    protocol = Echo
    started = 0
    noisy = False

    def startFactory(self) -> None:
        EchoFactory.started += 1

    def stopFactory(self) -> None:
        EchoFactory.started -= 1


def result_of(fired: Deferred[Any]) -> Any:
    """The result, or the error, of what must have fired."""
    results: list[Any] = []
    fired.addBoth(results.append)
    assert results, "it has not fired"
    return getattr(results[0], "value", results[0])


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(EchoFactory, "started", 0)
    yield Scene(tmp_path / "endpoint.key")
    assert endpoint._shared_nodes == {}


def test_it_listens_at_the_proxy_address(scene: Scene) -> None:
    port = scene.listen("web")
    assert verifyObject(IListeningPort, port)
    assert port.getHost() == IPv4Address("TCP", "127.0.0.1", 20000)
    assert EchoFactory.started == 1
    hello = scene.server.last.heard[0]
    assert hello.sender.net_key == public_bytes(load_key(scene.key))
    scene.stop(port)
    assert EchoFactory.started == 0
    assert scene.server.live() == []
    assert Opcode.RELEASE not in scene.server.last.opcodes()
    assert scene.clock.getDelayedCalls() == []


def test_an_ipv6_address(scene: Scene) -> None:
    scene.server.address = "[2001:db8::1]:20000"
    port = scene.listen()
    assert port.getHost() == IPv6Address("TCP", "2001:db8::1", 20000)
    scene.stop(port)


def test_reconnecting_keeps_the_port(scene: Scene) -> None:
    port = scene.listen()
    scene.server.last.transport.abortConnection()
    scene.run(1.0)
    assert len(scene.server.connections) == 2
    assert port.getHost() == IPv4Address("TCP", "127.0.0.1", 20000)
    scene.stop(port)


def test_the_key_and_pins_are_in_the_state_directory(scene: Scene, tmp_path: Path) -> None:
    port = scene.listen(key=None)
    assert (tmp_path / "node.key").exists()
    assert "72" * 32 in (tmp_path / "known-relays").read_text()
    scene.stop(port)


def test_servers_of_one_process_share_a_main_connection(scene: Scene) -> None:
    ports = [scene.listen(origin) for origin in ("a", "b")]
    assert len(scene.server.connections) == 1
    assert scene.asked_for() == ["a", "b"]
    scene.stop(ports[0])
    assert len(scene.server.live()) == 1
    again = scene.listen("a")
    assert again.getHost() == ports[0].getHost()
    assert len(scene.server.connections) == 1
    scene.stop(again)
    scene.stop(ports[1])
    assert scene.server.live() == []
    assert EchoFactory.started == 0


def test_another_key_is_another_node(scene: Scene, tmp_path: Path) -> None:
    ports = [scene.listen("a"), scene.listen("a", key=tmp_path / "other.key")]
    assert len(scene.server.live()) == 2
    for port in ports:
        scene.stop(port)


def test_an_origin_listens_once(scene: Scene) -> None:
    port = scene.listen("web")
    error = scene.listen("web")
    assert isinstance(error, ValueError)
    assert "give each its own origin=NAME" in str(error)
    scene.stop(port)
    assert EchoFactory.started == 0


def test_release_gives_the_address_back(scene: Scene) -> None:
    port, other = scene.listen("a", release=True), scene.listen("b")
    scene.stop(port)
    released = scene.server.last.heard[-1]
    assert pb.Release.FromString(released.message).origin_address == "a"
    again = scene.listen("a")
    assert scene.asked_for() == ["a", "b", "a"]
    scene.stop(again)
    scene.stop(other)
    assert len(scene.server.connections) == 1
    assert scene.server.last.opcodes().count(Opcode.RELEASE) == 1


def test_a_refusal_fails_the_listening_and_ends_the_node(scene: Scene) -> None:
    scene.server.script[Opcode.PROXY_REQUEST] = refuse
    error = scene.listen()
    assert isinstance(error, RefusedError)
    assert str(error) == "enough is enough"
    scene.run(1.0)
    assert scene.server.live() == []
    assert EchoFactory.started == 0
    scene.server.script[Opcode.PROXY_REQUEST] = grant
    scene.stop(scene.listen())


def test_what_was_refused_is_asked_for_anew(scene: Scene) -> None:
    other = scene.listen("other")
    scene.server.script[Opcode.PROXY_REQUEST] = refuse
    assert isinstance(scene.listen("web"), RefusedError)
    scene.server.script[Opcode.PROXY_REQUEST] = grant
    scene.stop(scene.listen("web"))
    assert scene.asked_for() == ["other", "web", "web"]
    scene.stop(other)


def test_an_unusable_key_fails_the_listening(scene: Scene) -> None:
    scene.key.touch(0o644)
    assert isinstance(scene.listen(), StartError)


def test_waiting_for_a_relay_can_be_given_up(scene: Scene) -> None:
    scene.server.up = False
    listening = scene.endpoint().listen(EchoFactory())
    scene.run(60.0)
    assert not listening.called
    assert len(scene.server.attempts) > 3
    listening.cancel()
    assert isinstance(result_of(listening), CancelledError)
    attempts = len(scene.server.attempts)
    scene.run(60.0)
    assert len(scene.server.attempts) == attempts
    assert EchoFactory.started == 0


def test_stopping_twice_is_stopping_once(scene: Scene) -> None:
    port = scene.listen()
    scene.stop(port)
    scene.stop(port)
    assert EchoFactory.started == 0


# ------------------------------------------- two endpoints with the same relay and key


@pytest.fixture
def tokens(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "token.a", tmp_path / "token.b"]
    for file in files:
        write_token(file, Token.new())
    return files


def shown_tokens(scene: Scene) -> list[bytes]:
    """Ids of the tokens that each connection has shown."""
    return [
        pb.Proof.FromString(message.message).token_id
        for connection in scene.server.connections
        for message in connection.heard
        if message.opcode == Opcode.PROOF
    ]


def test_another_token_is_another_node(scene: Scene, tokens: list[Path]) -> None:
    ports = [
        scene.listen("a", token=tokens[0]),
        scene.listen("b", token=tokens[1]),
        scene.listen("c", token=tokens[0]),
        scene.listen("d"),
    ]
    ids = [Token.parse(file.read_text()).id for file in tokens]
    assert shown_tokens(scene) == [*ids, b""]
    for port in ports:
        scene.stop(port)


def test_other_trust_is_another_node_and_none_is_the_usual_one(scene: Scene) -> None:
    ports = [
        scene.listen("a"),
        scene.listen("b", trust=TLSTrust()),
        scene.listen("c", trust=TLSTrust(pins=(b"p" * 32,))),
    ]
    assert len(scene.server.live()) == 2
    for port in ports:
        scene.stop(port)


@pytest.mark.parametrize("other", ["token", "trust", "servers", "link"])
def test_two_nodes_of_one_key_do_not_take_an_origin_from_each_other(
    scene: Scene, tokens: list[Path], other: str, tmp_path: Path
) -> None:
    port = scene.listen("web")
    (tmp_path / "link.key").symlink_to(scene.key)
    if other == "servers":
        servers = ["relay2:6008", scene.server.as_server()]
        listening = ProxiedServerEndpoint(scene.clock, servers, origin="web", key=scene.key)
        error = result_of(listening.listen(EchoFactory()))
    else:
        options = {
            "token": {"token": tokens[0]},
            "trust": {"trust": TLSTrust(pins=(b"p" * 32,))},
            "link": {"key": tmp_path / "link.key"},
        }
        error = scene.listen("web", **options[other])
    assert isinstance(error, ValueError)
    assert "listens already" in str(error)
    assert len(scene.server.connections) == 1
    scene.stop(port)


# ------------------------------------------------------------------------ finality


@pytest.mark.parametrize(
    "code",
    [
        pb.REFUSAL_QUOTA,
        pb.REFUSAL_DENIED,
        pb.REFUSAL_EXHAUSTED,
        pb.REFUSAL_ADDRESS_UNAVAILABLE,
        pb.REFUSAL_DRAINING,
    ],
)
def test_what_time_may_mend_is_waited_for(scene: Scene, code: pb.RefusalCode) -> None:
    def refuse(connection: ScriptedConnection, message: pb.Message) -> None:
        refusal = pb.Refusal(code=code, reason="not now")
        connection.say(Opcode.REFUSAL, refusal, message.request_nonce)

    scene.server.script[Opcode.PROXY_REQUEST] = refuse
    listening = scene.endpoint().listen(EchoFactory())
    scene.run(1.0)
    assert not listening.called
    scene.server.script[Opcode.PROXY_REQUEST] = grant
    scene.run(80.0)
    scene.stop(result_of(listening))


class Unwilling(EchoFactory):
    """Fails at its beginning, or at its end."""

    def __init__(self, at: str) -> None:
        self._at = at

    def doStart(self) -> None:
        super().doStart()
        if self._at == "start":
            raise KeyError("a mistake of the application")

    def doStop(self) -> None:
        super().doStop()
        if self._at == "stop":
            raise KeyError("a mistake of the application")


def test_a_factory_that_cannot_start_fails_the_listening_and_leaves_nothing(scene: Scene) -> None:
    assert isinstance(result_of(scene.endpoint("web").listen(Unwilling("start"))), KeyError)
    assert endpoint._shared_nodes == {}
    assert not scene.server.connections
    scene.stop(scene.listen("web"))  # the origin is free


def test_a_factory_that_cannot_start_disturbs_nobody_who_listens(scene: Scene) -> None:
    port = scene.listen("web")
    assert isinstance(result_of(scene.endpoint("other").listen(Unwilling("start"))), KeyError)
    assert scene.asked_for() == ["web"]
    scene.stop(port)


def test_a_factory_that_cannot_stop_is_stopped_all_the_same(scene: Scene) -> None:
    listening = scene.endpoint("web").listen(Unwilling("stop"))
    scene.run()
    scene.stop(result_of(listening))
    scene.stop(scene.listen("web"))
