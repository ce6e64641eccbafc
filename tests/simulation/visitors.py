"""Visitors: of streams, which hear an echo; of messages, which are relayed one way."""

from __future__ import annotations

import errno
from random import Random
from typing import TYPE_CHECKING

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.simulation.network import DEAD_SECONDS
from tests.simulation.peers import Peer

if TYPE_CHECKING:
    from tests.simulation.world import World

LONGEST_SECONDS = 400.0
"""A script takes 60 s, a stalled line 60 s, dead peers and the hold 40 s: by then it is over."""

RELAYED = 1000
"""An opcode of applications."""


class Visitor(Peer):
    """Comes, sends its pieces, and is served, refused or closed."""

    def __init__(self, world: World, number: int, port: int) -> None:
        self.world, self.number, self.port = world, number, port
        self.random = Random(world.seed * 7_000_003 + number)
        self.began_at = world.timeline.now
        self.sent = b""
        self.fate = ""
        super().__init__(world.network, port, f"203.0.113.{number % 20}")
        world.timeline.after(LONGEST_SECONDS, self._must_be_over)
        if self.random.random() < 0.1:
            world.timeline.after(self.random.random() * 20, self._falters)

    @property
    def name(self) -> str:
        return f"visitor {self.number} of {self.port}"

    def connected(self) -> None:
        self.world.trace(self.name, "is accepted")
        self._later(self._next)

    def _later(self, call: object) -> None:
        self.world.timeline.after(self.random.random() ** 3 * 15.0, call)  # type: ignore[arg-type]

    def _next(self) -> None:
        raise NotImplementedError

    def _falters(self) -> None:
        if self.over:
            return
        if self.random.random() < 0.7:
            self._done("resets")
            self.reset()
        else:
            self.world.trace(self.name, "is cut off")
            self.line.dark = True
            network = self.world.network
            network.after(DEAD_SECONDS, network.give_up, self.line, errno.ETIMEDOUT)

    def lost(self) -> None:
        self._done("is lost" if self.socket is not None else "is refused")

    def _done(self, fate: str) -> None:
        if not self.fate:
            self.fate = fate
            self.world.trace(self.name, fate)
            self.world.fates[fate] = self.world.fates.get(fate, 0) + 1

    def _must_be_over(self) -> None:
        assert self.over, f"{self.name} is neither served nor refused nor closed"


class StreamVisitor(Visitor):
    """Everything that it sends comes back, and then the end; or a reset."""

    def __init__(self, world: World, number: int, port: int) -> None:
        self.got = b""
        self.heard_end = False
        super().__init__(world, number, port)
        self.pieces = self.random.randrange(1, 4)

    def _next(self) -> None:
        if self.over:
            return
        if self.pieces:
            self.pieces -= 1
            size = self.random.choice((1, 100, 3000, 40_000))
            piece = b"%d." % self.number + self.random.randbytes(size)
            self.sent += piece
            self.write(piece)
            self._later(self._next)
        else:
            self.end()

    def arrived(self, data: bytes) -> None:
        self.got += data
        assert self.sent.startswith(self.got), f"{self.name} hears what it did not say"

    def finished(self) -> None:
        if self.began_at <= self.world.killed_at and (self.pieces or self.got != self.sent):
            self._done("is lost")  # a kernel that closes for a killed process says so in order
            self.close()
            return
        assert not self.pieces, f"{self.name} hears an end before its own"
        assert self.got == self.sent, f"{self.name} is cut, and it looks complete"
        self._done("is served")
        self.close()


class MessageVisitor(Visitor):
    """Its frames arrive whole, in order, unchanged; nothing comes back."""

    def __init__(self, world: World, number: int, port: int) -> None:
        super().__init__(world, number, port)
        self.pieces = self.random.randrange(1, 5)
        self.frames = 0

    def _next(self) -> None:
        if self.over:
            return
        if self.pieces:
            self.pieces -= 1
            self.write(self._frame())
            self._later(self._next)
        else:
            self._done("has said all")
            self.close()

    def _frame(self) -> bytes:
        key = (self.number, self.frames)
        self.frames += 1
        body = b"%d %d " % key + self.random.randbytes(self.random.choice((10, 5000)))
        sender = pb.ID(net_key=b"visitor", address="tcp://203.0.113.1:1")
        frame = encode_message(DEFAULT_NETWORK_ID, RELAYED, body, sender=sender)
        self.world.relayed[key] = frame
        return frame

    def arrived(self, data: bytes) -> None:
        """The port is another node's by now, which has streams and says it all again."""

    def finished(self) -> None:
        self._done("is closed")
        self.close()
