"""`proxyservice demo`: a service and two nodes on loopback, the published seven steps.

Runs the real service in this process with a state directory that is thrown
away. Every line is printed when the thing has happened, with its addresses.
"""

from __future__ import annotations

import hashlib
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.interfaces import IReactorTime

from proxyservice.errors import UnreachableError
from proxyservice.node.events import NodeEvents
from proxyservice.node.messages import Received
from proxyservice.node.node import Node
from proxyservice.process import on_first_signal

DEMO_SECONDS = 20.0
"""On any machine the demo takes under two seconds; this is for broken ones."""

PAYLOAD_BYTES = 1024 * 1024
APPLICATION_OPCODE = 1000
LOOPBACK = "127.0.0.1"
LEASED_PORTS = 8
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Say = Callable[[str], None]


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class _Demonstrator(NodeEvents):
    """Notes one node's connections instead of logging them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.main_address = ""
        self.peer_address = ""

    def connected(self, server: str, local_address: str) -> None:
        self.main_address = local_address

    def peer_connected(self, address: str, local_address: str) -> None:
        self.peer_address = local_address


class _DemoNode:
    """A node, what happened to it, and the messages it got."""

    def __init__(self, name: str, server: str, reactor: Any) -> None:
        self.seen = _Demonstrator(name)
        self.node = Node([server], reactor=reactor, events=self.seen, legacy=True)
        self._arrivals: list[Deferred[Received]] = []
        self.node.on_message(self._arrived)
        self._clock = reactor

    def next_message(self) -> Deferred[Received]:
        """Fire with the next message that arrives on the main connection."""
        arrival: Deferred[Received] = Deferred()
        self._arrivals.append(arrival)
        return arrival

    def _arrived(self, message: Received) -> None:
        self._arrivals.pop(0).callback(message)


def start_service(
    reactor: IReactorTime, directory: str, stop: Callable[[], None]
) -> tuple[Any, str]:
    """The service of `twistd proxyservice`, in this process; it and its `host:port`.

    The first signal calls ``stop()``: the service's own way would leave its end to twistd.
    """
    from proxyservice.tap import Options, makeService

    port, low = free_port(), 20000 + free_port() % 9000
    options = Options()
    options.parseOptions(
        [
            f"--listen=tcp:{port}:interface={LOOPBACK}",
            f"--ports={low}-{low + LEASED_PORTS - 1}",
            f"--port-interface={LOOPBACK}",
            f"--state-dir={directory}",
        ]
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)  # none may go the service's way
    try:
        service = makeService(options)
        on_first_signal(reactor, stop)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
    service.startService()
    return service, f"{LOOPBACK}:{port}"


@inlineCallbacks
def demonstrate(reactor: Any, say: Say) -> Any:
    """Do the seven steps. Fails with UnreachableError when a byte is missing, or on a signal."""
    with tempfile.TemporaryDirectory(prefix="proxyservice-demo-") as directory:
        service, server = start_service(reactor, directory, lambda: steps.cancel())
        say(f"service: twistd proxyservice, here in this process, on {server}")
        one, two = (_DemoNode(name, server, reactor) for name in ("node 1", "node 2"))
        try:
            steps: Deferred[None] = _seven_steps(one, two, server, say)
            yield steps.addTimeout(DEMO_SECONDS, reactor)
        except CancelledError:
            raise UnreachableError("interrupted") from None
        finally:
            yield one.node.stopService()
            yield two.node.stopService()
            yield service.stopService()


@inlineCallbacks
def _seven_steps(one: _DemoNode, two: _DemoNode, server: str, say: Say) -> Any:
    one.node.startService()
    two.node.startService()
    address_1 = yield one.node.when_addressed()
    address_2 = yield two.node.when_addressed()
    say(f"1. node 1 opens main connection 1: {one.seen.main_address} -> {server}")
    say(f"   node 2 opens main connection 2: {two.seen.main_address} -> {server}")
    say(f"2. the service listens for node 1 on proxy port 1: {address_1}")
    say(f"   and for node 2 on proxy port 2: {address_2}")
    question, answer = secrets.token_bytes(PAYLOAD_BYTES), secrets.token_bytes(PAYLOAD_BYTES)
    at_two, at_one = two.next_message(), one.next_message()
    yield one.node.send(address_2, APPLICATION_OPCODE, question)
    say(f"3. node 1 dials proxy port 2, connection 3: {one.seen.peer_address} -> {address_2}")
    say(f"4. node 1 sends {PAYLOAD_BYTES} bytes on connection 3")
    message = yield at_two
    _check(message, question)
    say(f"5. they arrive on main connection 2, from {message.sender.address}; all bytes equal")
    yield two.node.send(message.reply_address, APPLICATION_OPCODE, answer, reply=True)
    say(f"6. node 2 dials proxy port 1, connection 4: {two.seen.peer_address} -> {address_1}")
    say(f"   and answers with {PAYLOAD_BYTES} bytes on connection 4")
    message = yield at_one
    _check(message, answer)
    say(f"7. they arrive on main connection 1, from {message.sender.address}; all bytes equal")


def _check(message: Received, sent: bytes) -> None:
    if message.payload != sent:
        digests = (hashlib.sha256(data).hexdigest()[:16] for data in (sent, message.payload))
        raise UnreachableError("bytes were lost: SHA-256 {} became {}".format(*digests))
