"""One visitor of a lease in stream mode: its socket is a stream on the main connection."""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.failure import Failure

from proxyservice.net.stream_socket import StreamSocket
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.server.memory import Memory
from proxyservice.streams.multiplexer import Stream
from proxyservice.wire import proxyservice_pb2 as pb


class StreamVisitor(StreamSocket):
    """A `StreamSocket` that can be announced: who came, where, for which origin address."""

    def __init__(
        self,
        switch: StreamSwitch,
        stream: Stream,
        gone: Callable[[StreamSocket], None],
        *,
        memory: Memory,
        memory_source: str | None,
        visitor_address: str,
        proxy_address: str,
        origin: str,
    ) -> None:
        super().__init__(switch, stream, gone)
        self._memory = memory
        self.memory_source = memory_source
        self._counted_bytes = 0
        self._visitor_address = visitor_address
        self._proxy_address = proxy_address
        self._origin = origin

    def connectionMade(self) -> None:
        """The visitor is there: so the node is told, before a byte of it was read."""
        super().connectionMade()
        self._switch.tell()

    def opening(self) -> pb.StreamOpen:
        """What the node is told of this visitor."""
        return pb.StreamOpen(
            visitor_address=self._visitor_address,
            proxy_address=self._proxy_address,
            origin_address=self._origin,
            initial_window=self._stream.receive.size_bytes,
            server_window=self._stream.taken_bytes,
        )

    def sendProgressed(self) -> None:
        """The visitor's kernel took what it took; the rest is counted."""
        super().sendProgressed()
        if self._held_bytes != self._counted_bytes:
            self._counted_bytes = self._held_bytes
            self._memory.hold(self, self._held_bytes)

    def memory_short(self) -> None:
        """More waits for this visitor than for anybody else."""
        self._switch.reset(self._stream, pb.RESET_NO_ROOM, "memory is short")
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted's default value
        """The socket is closed, and nothing waits for it any more."""
        self._memory.hold(self, 0)
        super().connectionLost(reason)

    def lease_gone(self) -> None:
        """The lease or its holder is gone, or carries messages now."""
        self._switch.reset(self._stream, pb.RESET_LEASE_GONE)
        self.transport.abortConnection()
