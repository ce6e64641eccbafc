"""What the service says on a main connection: numbered frames, and how many of them may wait."""

from __future__ import annotations

from google.protobuf.message import Message as ProtoMessage

from proxyservice.net.outlet import Outlet
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.bounds import cut_to_bounds
from proxyservice.wire.envelope import encode_message
from proxyservice.wire.relay_rules import SERVER_NET_KEY


class Answers:
    """One per main connection. ``address`` is, byte for byte, the one that the node dialled."""

    def __init__(self, outlet: Outlet, network_id: int, address: str, high_bytes: int) -> None:
        self._outlet = outlet
        self._network_id = network_id
        self._sender = pb.ID(net_key=SERVER_NET_KEY, address=address)
        self._high_bytes = high_bytes
        self._sent = 0
        self._waiting_bytes = 0

    def encode(
        self, opcode: int, payload: ProtoMessage | bytes, nonce: int = 0, *, reply: bool = False
    ) -> bytes:
        """Return the next frame; it has to be sent."""
        self._sent += 1
        if isinstance(payload, ProtoMessage):
            cut_to_bounds(payload)
        return encode_message(
            self._network_id,
            opcode,
            payload,
            sender=self._sender,
            message_nonce=self._sent,
            request_nonce=nonce,
            reply=reply,
        )

    def send(
        self, opcode: int, payload: ProtoMessage | bytes = b"", request_nonce: int | None = None
    ) -> bytes:
        """Send a frame and return it."""
        frame = self.encode(opcode, payload, request_nonce or 0, reply=request_nonce is not None)
        self._outlet.write(frame)
        self._waiting_bytes += len(frame)
        if self.full:
            self._outlet.flush()  # what was gathered in this turn waits too, unless it can leave
        if self._outlet.writable and not self._outlet.gathered_bytes:
            self._waiting_bytes = 0
        return frame

    @property
    def full(self) -> bool:
        """As much waits as may: nothing that asks for more of it is heard."""
        return self._waiting_bytes > self._high_bytes

    def left(self) -> None:
        """What was gathered has left, or the node has taken everything."""
        self._waiting_bytes = 0
