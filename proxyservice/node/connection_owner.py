"""What a main connection of a node is told at its beginning, and whom it tells what happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxyservice.errors import ProxyServiceError, RefusedError
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.node.messages import Received
from proxyservice.streams.multiplexer import Stream
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.framing import DEFAULT_MAX_FRAME_BYTES, DEFAULT_NETWORK_ID

if TYPE_CHECKING:
    from proxyservice.node.connection import NodeConnection


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What all main connections of a node have in common."""

    network_id: int = DEFAULT_NETWORK_ID
    keepalive_seconds: float = 15.0
    """Until the server's Welcome names its own."""
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES
    """Largest relayed message, also inflated."""


class ConnectionOwner(Protocol):
    """Whom a main connection reports to."""

    def connection_ready(self, connection: NodeConnection) -> None:
        """The server may be asked for leases now."""

    def welcomed(self, connection: NodeConnection, welcome: pb.Welcome) -> None:
        """The server has accepted this node and named its limits (part B)."""

    def message_received(self, message: Received) -> None:
        """A visitor's message."""

    def visited(self, opening: pb.StreamOpen, switch: StreamSwitch, stream: Stream) -> None:
        """A visitor has come to a stream lease (part B); the stream wants a local end."""

    def lease_lost(
        self, connection: NodeConnection, request_nonce: int, error: RefusedError
    ) -> None:
        """The lease that this request got is held no more (part B)."""

    def draining(self, connection: NodeConnection, hint: pb.Draining) -> None:
        """The server is about to stop."""

    def connection_ended(self, connection: NodeConnection, error: ProxyServiceError) -> None:
        """The transport is gone; ``error`` says why."""
