"""Messages between nodes, as immutable objects and as frames.

What a relay carries and never interprets (docs/protocol.md, "Messages").
"""

from __future__ import annotations

from dataclasses import dataclass

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.framing import encode_frame
from proxyservice.wire.identity import ED25519_KEY_BYTES, verify


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a message, in the sender's own words; nothing of it is proved."""

    net_key: bytes
    address: str
    """`tcp://host:port` where the sender can be reached."""
    id: bytes
    connection_id: bytes
    address2: str


@dataclass(frozen=True, slots=True)
class Received:
    """One message of a peer."""

    opcode: int
    payload: bytes
    sender: Peer
    request_nonce: int
    message_nonce: int
    reply: bool
    message_id: str
    wants_ack: bool
    signed: bool
    """There is a signature by the sender's key, and it verifies. It can be a replay."""

    @property
    def reply_address(self) -> str:
        """`host:port` of the sender, for `Node.send`."""
        return self.sender.address.partition("://")[2]


def received(message: pb.Message, network_id: int) -> Received:
    """Take a relayed message over. Raises FrameError when a field that must be there is not."""
    sender = message.sender
    if not message.opcode or not sender.net_key or not sender.address:
        raise FrameError("a relayed message without opcode or sender")
    if message.netID != network_id:
        raise FrameError("a relayed message of another network")
    peer = Peer(sender.net_key, sender.address, sender.id, sender.connection_id, sender.address2)
    return Received(
        opcode=message.opcode,
        payload=message.message,
        sender=peer,
        request_nonce=message.request_nonce,
        message_nonce=message.message_nonce,
        reply=message.reply_flag,
        message_id=message.MessageID,
        wants_ack=message.need_ack,
        signed=_is_signed(message),
    )


def _is_signed(message: pb.Message) -> bool:
    sender, signature = message.sender, message.signature
    if not signature or len(sender.net_key) != ED25519_KEY_BYTES:
        return False
    if not verify(sender.net_key, signature, sender.address, sender.id, message.message):
        raise FrameError("the signature of a relayed message does not verify")
    return True


def encode_application_message(
    network_id: int,
    opcode: int,
    payload: bytes,
    *,
    sender: pb.ID,
    message_nonce: int,
    request_nonce: int = 0,
    reply: bool = False,
    message_id: str = "",
    wants_ack: bool = False,
) -> bytes:
    """Return a whole frame for a peer's proxy address, not compressed."""
    message = pb.Message(
        message=payload,
        sender=sender,
        request_nonce=request_nonce,
        message_nonce=message_nonce,
        reply_flag=reply,
        opcode=opcode,
        netID=network_id,
        MessageID=message_id,
        need_ack=wants_ack,
    )
    return encode_frame(network_id, message.SerializeToString(), algorithm=1)
