"""Many nodes in one process: each leases, is visited, and comes back when it is cut.

Plain sockets on one epoll, and part A of the protocol, in which an address
rests on what the node says alone. Nothing happens but in `turn`.
"""

from __future__ import annotations

import errno
import heapq
import random
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from proxyservice.wire.framing import HEADER_BYTES
from tests.attacks.kit import proxy_request

HOST = "127.0.0.1"
AGAIN_SECONDS = (0.05, 0.5)
"""After which a node that was cut, or not let in, tries again."""


class _Node:
    def __init__(self, number: int) -> None:
        self.number = number
        self.connection: socket.socket | None = None
        self.received = bytearray()
        self.asked = False


class Crowd:
    """Nodes of one relay, by number; as a block, all of them leave with it."""

    def __init__(self, relay_port: int) -> None:
        self._relay = (HOST, relay_port)
        self._epoll = select.epoll()
        self._nodes: dict[int, _Node] = {}  # by number
        self._open: dict[int, _Node] = {}  # by descriptor
        self._absent: list[tuple[float, int]] = []  # when who tries again
        self._pick = random.Random(25)
        self.ports: dict[int, int] = {}
        """The proxy port of each node, as the relay has said it last."""
        self.moved: list[tuple[int, int, int]] = []
        """Who was told another port than before: number, before, now."""
        self.leased: set[int] = set()
        """Whose present connection has a port."""
        self.relayed_bytes = 0
        """What visitors said, as it came to the nodes, headers included."""

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *error: object) -> None:
        for node in self._open.values():
            assert node.connection is not None
            node.connection.close()
        self._epoll.close()

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def complete(self) -> bool:
        """Every node has its port."""
        return len(self.leased) == len(self._nodes)

    def grow(self, count: int) -> None:
        """So many more nodes, which come at once."""
        for number in range(len(self._nodes), len(self._nodes) + count):
            self._nodes[number] = _Node(number)
            heapq.heappush(self._absent, (0.0, number))

    def until(self, true: Callable[[], bool], seconds: float) -> None:
        """Take turns until the condition holds."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"{len(self.leased)} of {len(self)} have a port"
            self.turn()

    def turn(self, seconds: float = 0.02) -> None:
        """Let those in who may try again, and hear what came."""
        now = time.monotonic()
        while self._absent and self._absent[0][0] <= now:
            self._connect(self._nodes[heapq.heappop(self._absent)[1]])
        self._handle(self._epoll.poll(seconds, 1024))

    def last_words(self) -> None:
        """Hear all that a relay has said which is no more."""
        while events := self._epoll.poll(0, 1024):
            self._handle(events)

    def visit(self, number: int, frame: bytes) -> None:
        """A visitor of this node says one frame, and leaves."""
        with (
            suppress(OSError),
            socket.create_connection((HOST, self.ports[number]), timeout=10) as visitor,
        ):
            visitor.sendall(frame)

    def _handle(self, events: list[tuple[int, int]]) -> None:
        for descriptor, event in events:
            node = self._open.get(descriptor)
            if node is None:
                continue
            if event & select.EPOLLIN:
                self._hear(node)
            elif event & (select.EPOLLERR | select.EPOLLHUP):
                self._cut(node)
            elif not node.asked:
                self._ask(node)

    def _connect(self, node: _Node) -> None:
        node.connection = connection = socket.socket()
        node.asked = False
        node.received.clear()
        connection.setblocking(False)
        self._open[connection.fileno()] = node
        self._epoll.register(connection, select.EPOLLOUT)
        if connection.connect_ex(self._relay) not in (0, errno.EINPROGRESS):
            self._cut(node)

    def _ask(self, node: _Node) -> None:
        assert node.connection is not None
        node.asked = True
        try:
            node.connection.sendall(proxy_request(node.number))  # a fresh socket has room
        except OSError:
            self._cut(node)
            return
        self._epoll.modify(node.connection, select.EPOLLIN)

    def _hear(self, node: _Node) -> None:
        assert node.connection is not None
        try:
            data = node.connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._cut(node)
            return
        node.received += data
        while (frame := _taken(node.received)) is not None:
            self._understand(node, frame)

    def _understand(self, node: _Node, frame: bytes) -> None:
        message = pb.Message.FromString(frame[HEADER_BYTES:])
        if message.opcode != Opcode.PROXY_RESPONSE:
            self.relayed_bytes += len(frame)
            return
        address = pb.ProxyResponse.FromString(message.message).proxy_address
        port = int(address.rpartition(":")[2])
        before = self.ports.setdefault(node.number, port)
        if port != before:
            self.moved.append((node.number, before, port))
            self.ports[node.number] = port
        self.leased.add(node.number)

    def _cut(self, node: _Node) -> None:
        assert node.connection is not None
        del self._open[node.connection.fileno()]
        node.connection.close()  # which takes it out of the epoll, too
        node.connection = None
        self.leased.discard(node.number)
        at = time.monotonic() + self._pick.uniform(*AGAIN_SECONDS)
        heapq.heappush(self._absent, (at, node.number))


def _taken(received: bytearray) -> bytes | None:
    """The first whole frame, which is no longer there then."""
    if len(received) < HEADER_BYTES:
        return None
    end = HEADER_BYTES + int.from_bytes(received[6:HEADER_BYTES], "big")
    if len(received) < end:
        return None
    frame = bytes(received[:end])
    del received[:end]
    return frame
