"""A visitor of a node's stream lease, as its relay carries it: everything comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from proxyservice.wire.stream_frames import stream_data_prefix

if TYPE_CHECKING:
    from tests.simulation.scripted_relay import RelayConnection

CREDIT_BYTES = 4000
DONE_SECONDS = 180.0
CALM = "calm"
"""The lease whose application raises nothing."""


class EchoedVisitor:
    """Sends some pieces, and its end; hears the same, and then an end."""

    def __init__(self, at: RelayConnection, number: int, origin: str) -> None:
        self._at, self._number, self._origin = at, number, origin
        self._random, self._world = at.random, at.world
        self._sent, self._got = b"", b""
        self._pieces = at.random.randrange(1, 4)
        self._over = False
        opening = pb.StreamOpen(
            visitor_address=f"198.51.100.9:{1000 + number}",
            proxy_address=f"192.0.2.1:{20000 + number}",
            origin_address=origin,
            initial_window=CREDIT_BYTES,
            server_window=at.window_bytes,
        )
        at.say(Opcode.STREAM_OPEN, opening, number)
        self._later()
        self._world.timeline.after(DONE_SECONDS, self._must_be_over)

    @property
    def _name(self) -> str:
        return f"visitor {self._number} of {self._origin!r} at {self._at.relay.name}"

    def _later(self) -> None:
        self._world.timeline.after(self._random.random() * 5, self._next)

    def _next(self) -> None:
        if self._over or self._at.over:
            return
        if not self._pieces:
            self._at.control(Opcode.STREAM_END, self._number)
            return
        self._pieces -= 1
        piece = self._random.randbytes(self._random.choice((1, 100, 3000, 20_000)))
        self._sent += piece
        self._at.write(stream_data_prefix(DEFAULT_NETWORK_ID, self._number, len(piece)) + piece)
        self._later()

    def heard(self, opcode: int, payload: bytes) -> None:
        """What a relay has carried that lies about its streams too is no account of anything."""
        if not self._at.relay.is_good:
            return
        if opcode == Opcode.STREAM_DATA:
            self._got += payload
            assert self._sent.startswith(self._got), f"{self._name} hears what it did not say"
            if not self._over:
                window = pb.StreamWindow(credit=len(payload)).SerializeToString()
                self._at.control(Opcode.STREAM_WINDOW, self._number, window)
        elif opcode == Opcode.STREAM_END:
            whole = not self._pieces and self._got == self._sent
            assert whole, f"{self._name} is cut, and it looks complete"
            self._done("is served")
        else:
            why = pb.StreamReset.FromString(payload).reason
            assert self._origin != CALM, f"{self._name} is reset: {why}"
            self._done("is reset")

    def _done(self, fate: str) -> None:
        if not self._over:
            self._over = True
            self._world.count(fate)

    def _must_be_over(self) -> None:
        lost = self._at.over or not self._at.relay.is_good
        assert self._over or lost, f"{self._name} is neither served nor reset"
