"""Eager transports keep the promises of Twisted's own: one contract over real sockets for all.

A reactor of the test's own is turned by hand; nothing else runs in it.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.net.eager import (
    HEADROOM_BYTES,
    RECEIVE_BUFFER,
    EagerProtocol,
    EagerServer,
    EagerSocket,
)
from proxyservice.net.keepalive import configure_visitor
from proxyservice.net.lean_loop import install_lean_loop, turn_end

epollreactor = pytest.importorskip("twisted.internet.epollreactor")

SECONDS = 15.0


class Recorder(Protocol):
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.lost: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        assert self.lost is None, "it is lost once"
        self.lost = reason.value


class Lent(EagerProtocol):
    """The same, lent the buffer."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.lost: Any = None

    def bufferReceived(self, view: memoryview) -> None:
        self.got += view
        view[:] = bytes(len(view))  # nobody may count on it any more

    def connectionLost(self, reason: Any = None) -> None:
        assert self.lost is None, "it is lost once"
        self.lost = reason.value


class HalfClosing:
    """Mixed in: knows half-close."""

    ends: list[str]

    def readConnectionLost(self) -> None:
        self.ends.append("read")

    def writeConnectionLost(self) -> None:
        self.ends.append("write")


@implementer(IHalfCloseableProtocol)
class HalfRecorder(HalfClosing, Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.ends = []


@implementer(IHalfCloseableProtocol)
class HalfLent(HalfClosing, Lent):
    def __init__(self) -> None:
        super().__init__()
        self.ends = []


class Kind:
    """One kind of transport, with the reactor that turns it."""

    def __init__(self, transport: type[tcp.Server], lent: bool, reactor: Any) -> None:
        self._transport = transport
        self._lent = lent
        self.reactor = reactor
        self._sockets: list[socket.socket] = []

    def connect(self, *, half_closing: bool = False) -> tuple[Any, socket.socket]:
        """A connected protocol, and the plain socket at the far end."""
        if half_closing:
            protocol: Any = HalfLent() if self._lent else HalfRecorder()
        else:
            protocol = Lent() if self._lent else Recorder()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            far = socket.create_connection(listening.getsockname())
            near, address = listening.accept()
        far.setblocking(False)
        near.setblocking(False)
        self._sockets.append(far)
        no_port: Any = None
        transport = self._transport(near, protocol, address, no_port, 0, self.reactor)
        protocol.makeConnection(transport)
        return protocol, far

    def turn_until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < deadline, "it did not happen in time"
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0)

    def turn(self, times: int = 20) -> None:
        for _ in range(times):
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0)

    def read_all(self, far: socket.socket) -> bytes:
        """Until the end of input."""
        got = bytearray()

        def ended() -> bool:
            with suppress(BlockingIOError):
                while data := far.recv(1 << 16):
                    got.extend(data)
                return True
            return False

        self.turn_until(ended)
        return bytes(got)

    def read(self, far: socket.socket, size: int) -> bytes:
        got = bytearray()

        def enough() -> bool:
            with suppress(BlockingIOError):
                while len(got) < size and (data := far.recv(size - len(got))):
                    got.extend(data)
            return len(got) >= size

        self.turn_until(enough)
        return bytes(got)

    def send(self, far: socket.socket, data: bytes) -> None:
        left = memoryview(data)

        def sent() -> bool:
            nonlocal left
            with suppress(BlockingIOError):
                while left:
                    left = left[far.send(left) :]
            return not left

        self.turn_until(sent)

    def close(self) -> None:
        for far in self._sockets:
            far.close()
        self.reactor.removeAll()
        for descriptor in (self.reactor.waker, *self.reactor._internalReaders):
            descriptor.connectionLost(None)
        self.reactor._poller.close()


KINDS = {
    "ordinary": (tcp.Server, False, False),
    "eager": (EagerServer, False, False),
    "eager, lent": (EagerServer, True, False),
    "eager, lean loop": (EagerServer, False, True),
    "eager, lent, lean loop": (EagerServer, True, True),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    transport, lent, lean = KINDS[request.param]
    reactor = epollreactor.EPollReactor()
    active = turn_end.active
    if lean:
        assert install_lean_loop(reactor)
    else:
        turn_end.active = False
    kind = Kind(transport, lent, reactor)
    yield kind
    kind.close()
    turn_end.active = active


def some(n_bytes: int) -> bytes:
    return random.Random(n_bytes).randbytes(n_bytes)


# ------------------------------------------------------------------------------- bytes


def test_what_is_written_arrives_in_order(kind: Kind) -> None:
    protocol, far = kind.connect()
    parts = [some(size) for size in (0, 1, 100, 70_000, 5_000_000, 3, 300_000)]
    for part in parts:
        protocol.transport.write(part)
    protocol.transport.writeSequence([b"a", b"", b"bc" * 1000])
    expected = b"".join(parts) + b"abc" + b"bc" * 999
    assert kind.read(far, len(expected)) == expected


def test_small_writes_arrive_without_further_ado(kind: Kind) -> None:
    protocol, far = kind.connect()
    for number in range(200):
        protocol.transport.write(b"%03d" % number)
        assert kind.read(far, 3) == b"%03d" % number


def test_what_is_sent_is_received_whole(kind: Kind) -> None:
    protocol, far = kind.connect()
    said = some(3_000_000)
    kind.send(far, said)
    kind.turn_until(lambda: len(protocol.got) == len(said))
    assert bytes(protocol.got) == said


def test_nothing_is_received_while_reading_is_paused(kind: Kind) -> None:
    protocol, far = kind.connect()
    kind.send(far, b"before")
    kind.turn_until(lambda: protocol.got == b"before")
    protocol.transport.pauseProducing()
    kind.send(far, b" and after")
    kind.turn()
    assert protocol.got == b"before"
    protocol.transport.resumeProducing()
    kind.turn_until(lambda: protocol.got == b"before and after")


# -------------------------------------------------------------------------------- ends


def test_our_end_leaves_everything_behind_and_we_still_hear(kind: Kind) -> None:
    protocol, far = kind.connect(half_closing=True)
    said = some(4_000_000)
    protocol.transport.write(said)
    protocol.transport.loseWriteConnection()
    assert kind.read_all(far) == said
    kind.turn_until(lambda: protocol.ends == ["write"])
    protocol.transport.write(b"too late")
    kind.send(far, b"go on")
    kind.turn_until(lambda: protocol.got == b"go on")
    assert protocol.lost is None
    far.shutdown(socket.SHUT_WR)
    kind.turn_until(lambda: protocol.ends == ["write", "read"])


def test_our_end_with_nothing_queued(kind: Kind) -> None:
    protocol, far = kind.connect(half_closing=True)
    protocol.transport.loseWriteConnection()
    assert kind.read_all(far) == b""
    kind.turn_until(lambda: protocol.ends == ["write"])
    assert protocol.lost is None


def test_their_end_is_told_to_who_understands_and_we_still_speak(kind: Kind) -> None:
    protocol, far = kind.connect(half_closing=True)
    kind.send(far, b"all I have")
    far.shutdown(socket.SHUT_WR)
    kind.turn_until(lambda: protocol.ends == ["read"])
    assert protocol.got == b"all I have"
    said = some(2_000_000)
    protocol.transport.write(said)
    protocol.transport.loseConnection()
    assert kind.read_all(far) == said
    kind.turn_until(lambda: protocol.lost is not None)


def test_their_end_is_the_end_for_everybody_else(kind: Kind) -> None:
    protocol, far = kind.connect()
    kind.send(far, b"bye")
    far.shutdown(socket.SHUT_WR)
    kind.turn_until(lambda: protocol.lost is not None)
    assert isinstance(protocol.lost, ConnectionDone)
    assert protocol.got == b"bye"


@pytest.mark.parametrize("size", [0, 10, 4_000_000])
def test_a_close_leaves_everything_behind(kind: Kind, size: int) -> None:
    protocol, far = kind.connect()
    protocol.transport.write(some(size))
    protocol.transport.loseConnection()
    assert protocol.lost is None, "never from within the call"
    assert kind.read_all(far) == some(size)
    kind.turn_until(lambda: protocol.lost is not None)
    assert isinstance(protocol.lost, ConnectionDone)
    protocol.transport.write(b"into nothing")
    protocol.transport.loseConnection()


@pytest.mark.parametrize("size", [0, 4_000_000])
def test_an_abort_is_a_reset_at_once(kind: Kind, size: int) -> None:
    protocol, far = kind.connect()
    protocol.transport.write(some(size))
    protocol.transport.abortConnection()
    assert protocol.lost is None, "never from within the call"
    kind.turn_until(lambda: protocol.lost is not None)
    assert isinstance(protocol.lost, ConnectionAborted)
    with pytest.raises(ConnectionResetError):
        kind.read_all(far)
    protocol.transport.abortConnection()


def test_an_abort_cuts_a_close_short(kind: Kind) -> None:
    protocol, _ = kind.connect()
    protocol.transport.write(some(8_000_000))  # more than any buffer
    protocol.transport.loseConnection()
    kind.turn()
    assert protocol.lost is None
    protocol.transport.abortConnection()
    kind.turn_until(lambda: protocol.lost is not None)
    assert isinstance(protocol.lost, ConnectionAborted)


@pytest.mark.parametrize("writing", [False, True])
def test_a_reset_by_the_far_end_is_a_loss(kind: Kind, writing: bool) -> None:
    protocol, far = kind.connect()
    if writing:
        protocol.transport.write(some(8_000_000))
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    kind.turn_until(lambda: protocol.lost is not None)
    assert isinstance(protocol.lost, ConnectionLost)


# --------------------------------------------------------------------------- producers


@implementer(IPushProducer)
class Pushing:
    """Writes whenever it may."""

    def __init__(self, transport: Any, data: bytes) -> None:
        self.transport = transport
        self.left = data
        self.paused = self.stopped = False
        self.pauses = 0

    def push(self) -> None:
        while self.left and not self.paused:
            portion, self.left = self.left[:50_000], self.left[50_000:]
            self.transport.write(portion)
        if not self.left:
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        assert not self.paused
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False
        if self.left:
            self.push()

    def stopProducing(self) -> None:
        self.stopped = True


def test_a_push_producer_is_paused_and_resumed(kind: Kind) -> None:
    protocol, far = kind.connect()
    said = some(20_000_000)
    producer = Pushing(protocol.transport, said)
    protocol.transport.registerProducer(producer, True)
    producer.push()
    assert producer.paused
    assert len(producer.left) > 5_000_000, "it was paused in time"
    protocol.transport.loseConnection()  # once the producer is done
    assert kind.read_all(far) == said
    assert producer.pauses > 1
    kind.turn_until(lambda: protocol.lost is not None)
    assert isinstance(protocol.lost, ConnectionDone)


@implementer(IPullProducer)
class Pulled:
    """Gives a little each time it is asked."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.asked = 0
        self.stopped = False

    def resumeProducing(self) -> None:
        self.transport.write(b"%06d" % self.asked)
        self.asked += 1
        if self.asked == 500:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


def test_a_pull_producer_is_asked_until_it_has_no_more(kind: Kind) -> None:
    protocol, far = kind.connect()
    protocol.transport.registerProducer(Pulled(protocol.transport), False)
    protocol.transport.loseConnection()
    assert kind.read_all(far) == b"".join(b"%06d" % number for number in range(500))
    kind.turn_until(lambda: isinstance(protocol.lost, ConnectionDone))


def test_a_producer_of_a_lost_connection_is_stopped(kind: Kind) -> None:
    protocol, _ = kind.connect()
    producer = Pushing(protocol.transport, some(8_000_000))
    protocol.transport.registerProducer(producer, True)
    producer.push()
    with pytest.raises(RuntimeError):
        protocol.transport.registerProducer(Pulled(protocol.transport), False)
    protocol.transport.abortConnection()
    kind.turn_until(lambda: protocol.lost is not None)
    assert producer.stopped
    late = Pulled(protocol.transport)
    protocol.transport.registerProducer(late, False)
    assert late.stopped


# ----------------------------------------------------------------- what is eager's alone


@pytest.fixture
def eager() -> Iterator[Kind]:
    kind = Kind(EagerServer, True, epollreactor.EPollReactor())
    active, turn_end.active = turn_end.active, False
    yield kind
    kind.close()
    turn_end.active = active


def test_a_write_does_not_wait_for_the_reactor(eager: Kind) -> None:
    protocol, far = eager.connect()
    protocol.transport.write(b"at once")
    assert far.recv(100) == b"at once"
    assert protocol.transport.sent_bytes == 7


def test_a_view_that_is_written_may_change_afterwards(eager: Kind) -> None:
    protocol, far = eager.connect()
    buffer = bytearray(some(9_000_000))
    expected = bytes(buffer)
    protocol.transport.write(memoryview(buffer))
    assert protocol.transport.queued_bytes > 0, "the kernel took it all: nothing is shown"
    buffer[:] = bytes(len(buffer))
    assert eager.read(far, len(expected)) == expected
    eager.turn_until(lambda: protocol.transport.queued_bytes == 0)
    assert protocol.transport.sent_bytes == len(expected)


class Asking(Lent):
    """Takes a few bytes at a time, or into memory of its own."""

    def __init__(self, room: Any) -> None:
        super().__init__()
        self.room = room
        self.sizes: list[int] = []

    def receiveRoom(self) -> Any:
        return self.room

    def bufferReceived(self, view: memoryview) -> None:
        self.sizes.append(len(view))
        super().bufferReceived(view)


@pytest.mark.parametrize("room", [7, 1000, memoryview(bytearray(13))], ids=str)
def test_no_more_is_read_than_there_is_room(eager: Kind, room: Any) -> None:
    protocol, far = eager.connect()
    asking = Asking(room)
    protocol.transport.protocol = asking
    asking.makeConnection(protocol.transport)
    eager.send(far, some(2000))
    eager.turn_until(lambda: len(asking.got) == 2000)
    assert bytes(asking.got) == some(2000)
    assert max(asking.sizes) <= (room if isinstance(room, int) else len(room))


def test_without_room_nothing_is_read_until_there_is_some(eager: Kind) -> None:
    protocol, far = eager.connect()
    asking = Asking(0)
    protocol.transport.protocol = asking
    asking.makeConnection(protocol.transport)
    eager.send(far, b"hello")
    eager.turn()
    assert asking.got == b""
    asking.room = 100
    protocol.transport.readNow()
    assert asking.got == b"hello"


def test_what_is_lent_has_room_for_a_header_in_front(eager: Kind) -> None:
    starts = []

    class Placed(Lent):
        def bufferReceived(self, view: memoryview) -> None:
            whole = RECEIVE_BUFFER[HEADROOM_BYTES : HEADROOM_BYTES + len(view)]
            whole[0] ^= 0xFF
            starts.append(view[0] == whole[0])
            super().bufferReceived(view)

    protocol, far = eager.connect()
    placed = Placed()
    protocol.transport.protocol = placed
    placed.makeConnection(protocol.transport)
    eager.send(far, b"hello")
    eager.turn_until(lambda: starts)
    assert starts == [True]


class Silent:
    """A push producer that has nothing more to say, and stays registered."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


@pytest.mark.parametrize("lean", [False, True], ids=["plain", "lean"])
def test_a_paused_producer_does_not_put_off_our_end(eager: Kind, lean: bool) -> None:
    """Twisted's own resumes it *instead*, and nobody hears the end."""
    assert not lean or install_lean_loop(eager.reactor)
    protocol, far = eager.connect(half_closing=True)
    producer, said = Silent(), some(4_000_000)
    protocol.transport.registerProducer(producer, True)
    protocol.transport.write(said)
    assert producer.calls == ["pause"]
    protocol.transport.loseWriteConnection()
    assert eager.read_all(far) == said
    eager.turn_until(lambda: protocol.ends == ["write"])
    assert producer.calls == ["pause", "resume"]


# ------------------------------------------------------ RST until an end is due: `EagerSocket`


def lingers(handle: socket.socket) -> bool:
    option = handle.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    return struct.unpack("ii", option) == (1, 0)


def a_visitor(eager: Kind, *, half_closing: bool = True) -> tuple[Any, socket.socket]:
    """An `EagerSocket` that was accepted at a socket which says RST."""
    protocol: Any = HalfLent() if half_closing else Lent()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        configure_visitor(listening)
        far = socket.create_connection(listening.getsockname())
        near, address = listening.accept()
    near.setblocking(False)
    far.setblocking(False)
    assert lingers(near), "inherited"
    transport = EagerSocket(near, protocol, address, eager.reactor)
    protocol.makeConnection(transport)
    return protocol, far


def is_reset(eager: Kind, far: socket.socket) -> bool:
    with pytest.raises(ConnectionResetError):
        eager.read_all(far)
    return True


def test_whoever_closes_it_without_an_end_resets_it(eager: Kind) -> None:
    protocol, far = a_visitor(eager)
    with far:
        protocol.transport.write(b"half")
        protocol.transport.connectionLost(Failure(ConnectionLost()))  # as the end of a reactor
        assert is_reset(eager, far)


def test_an_exception_resets_it(eager: Kind) -> None:
    protocol, far = a_visitor(eager)
    protocol.bufferReceived = None
    with far:
        far.send(b"anything")
        assert is_reset(eager, far)


@pytest.mark.parametrize("size", [0, 10, 4_000_000])
@pytest.mark.parametrize("how", ["half", "whole", "half, then whole", "theirs"])
def test_an_end_in_order_is_delivered_whole(eager: Kind, how: str, size: int) -> None:
    protocol, far = a_visitor(eager, half_closing=how != "theirs")
    with far:
        protocol.transport.write(some(size))
        if how == "theirs":
            eager.read(far, size)
            far.shutdown(socket.SHUT_WR)
            assert eager.read_all(far) == b""
            return
        if "half" in how:
            protocol.transport.loseWriteConnection()
        if "whole" in how:
            protocol.transport.loseConnection()
        if how == "half":
            handle = protocol.transport.getHandle()
            assert eager.read_all(far) == some(size)
            assert not lingers(handle)
        else:
            assert eager.read_all(far) == some(size)
