"""One main connection of a scripted node: it speaks, echoes streams, and checks what it hears."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import PAYLOADS, Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, HEADER_BYTES
from proxyservice.wire.proof import NO_BINDING, proof_input, sign_proof
from proxyservice.wire.stream_frames import stream_control_frame, stream_data_prefix
from tests.simulation.peers import Peer
from tests.simulation.relay import MAIN_PORT
from tests.simulation.visitors import RELAYED

if TYPE_CHECKING:
    from tests.simulation.nodes import Node

WINDOW_BYTES = 16 * 1024
FEATURES = 1 << pb.FEATURE_STREAMS | 1 << pb.FEATURE_RELEASE | 1 << pb.FEATURE_DRAINING
ANSWER_SECONDS = 150.0
"""A slow disk twice, a probed holder, a few takeovers before: by then there is an answer."""


class NodeConnection(Peer):
    def __init__(self, node: Node, source: str) -> None:
        self.node, self.world = node, node.world
        self.began_at = node.world.timeline.now
        self.told: dict[str, int] = {}
        """What it was granted here, by origin address."""
        self.wanted: set[int] = set()
        self.releases: dict[str, int] = {}
        """Asked for here, and not seen done; by origin address."""
        self.welcome = self.closing = False
        self._asked: dict[int, str] = {}
        self._origins: dict[int, str] = {}
        self._releasing: dict[int, tuple[str, bool]] = {}
        self._nonces = self._messages = 0
        self._got = b""
        self._hello_body = b""
        self._streams = 0
        self._relayed: dict[int, int] = {}  # next frame of each visitor
        super().__init__(self.world.network, MAIN_PORT, source)

    @property
    def number(self) -> int:
        """Where it comes from; the other end knows it too."""
        return 0 if self.socket is None else int(self.socket.here[1])

    @property
    def name(self) -> str:
        return f"{self.node.name} on {self.number}"

    # ----------------------------------------------------------- what it says

    def _frame(self, opcode: int, payload: Any = b"", nonce: int = 0) -> bytes:
        self._messages += 1
        return encode_message(
            DEFAULT_NETWORK_ID,
            opcode,
            payload,
            sender=self.node.sender,
            request_nonce=nonce,
            message_nonce=self._messages,
        )

    def connected(self) -> None:
        self.world.connections[self.number] = self
        if self.node.key is None:
            self.welcome = True
            self.node.welcome(self)
            return
        hello = pb.Hello(
            version=1, features=FEATURES, client_nonce=bytes(32), initial_window=WINDOW_BYTES
        )
        frame = self._frame(Opcode.HELLO, hello)
        self._hello_body = frame[HEADER_BYTES:]
        self.write(frame)

    def ask(self, origin: str, mode: int, wanted: int | None = None) -> None:
        request = pb.ProxyRequest(origin_address=origin)
        nonce = 0
        if self.node.key is not None:
            self._nonces += 1
            nonce = self._nonces
            request.mode = mode  # type: ignore[assignment]
            if wanted is not None:
                request.proxy_address = f":{wanted}"
                self.wanted.add(wanted)
        self.world.trace(self.name, "asks for", repr(origin), wanted or "")
        self._asked[nonce] = self._origins[nonce] = origin
        self.write(self._frame(Opcode.PROXY_REQUEST, request, nonce))
        self.world.timeline.after(ANSWER_SECONDS, self._must_be_answered, nonce)

    def release(self, origin: str) -> None:
        self._nonces += 1
        self.releases[origin] = self.releases.get(origin, 0) + 1
        self.world.trace(self.name, "releases", repr(origin))
        self._releasing[self._nonces] = (
            origin,
            origin in self.told and origin not in (self._asked.values()),
        )
        self.write(self._frame(Opcode.RELEASE, pb.Release(origin_address=origin), self._nonces))

    def keepalive(self) -> None:
        if not self.over:
            self.write(self._frame(Opcode.KEEPALIVE))

    def _must_be_answered(self, nonce: int) -> None:
        lost = self.over or self.line.dark or self.closing
        if self.node.key is None and not lost and nonce in self._asked:
            self.world.check_waits(self)  # no port is left
            self.world.timeline.after(ANSWER_SECONDS, self._must_be_answered, nonce)
            return
        assert lost or nonce not in self._asked, f"{self.name} got no answer"

    # ---------------------------------------------------------- what it hears

    def arrived(self, data: bytes) -> None:
        self._got += data
        while len(self._got) >= HEADER_BYTES and not self.over:
            (size,) = struct.unpack_from(">I", self._got, 6)
            if len(self._got) < HEADER_BYTES + size:
                return
            raw, self._got = self._got[: HEADER_BYTES + size], self._got[HEADER_BYTES + size :]
            message = pb.Message.FromString(raw[HEADER_BYTES:])
            if message.opcode == RELAYED:
                self._check_relayed(message.message, raw)
                continue
            kind = PAYLOADS.get(message.opcode)
            payload = message.message if kind is None else kind.FromString(message.message)
            _HEARD[message.opcode](self, message, payload, raw)

    def _check_relayed(self, body: bytes, raw: bytes) -> None:
        visitor, frame = (int(word) for word in body.split(b" ", 2)[:2])
        assert raw == self.world.relayed[visitor, frame], "a frame was changed on its way"
        # What was on its way to a former connection may be lost, and may be seen late.
        expected = self._relayed.get(visitor, frame)
        assert frame == expected, f"frame {frame} of visitor {visitor}, not {expected}"
        assert (visitor, frame) not in self.world.delivered, f"frame {frame} of {visitor} twice"
        if visitor in self.world.first_heard and self.world.first_heard[visitor] is not self:
            self.world.fates["goes on"] = self.world.fates.get("goes on", 0) + 1
        self.world.first_heard.setdefault(visitor, self)
        self.world.delivered.add((visitor, frame))
        self._relayed[visitor] = frame + 1
        self.world.fates["relayed"] = self.world.fates.get("relayed", 0) + 1

    def _challenge(self, message: pb.Message, payload: Any, raw: bytes) -> None:
        assert self.node.key is not None
        signed = proof_input(
            network_id=DEFAULT_NETWORK_ID,
            relay_id=payload.relay_id,
            binding_type=0,
            binding=NO_BINDING,
            server_nonce=payload.server_nonce,
            client_nonce=bytes(32),
            net_key=self.node.sender.net_key,
            hello_body=self._hello_body,
            challenge_body=raw[HEADER_BYTES:],
        )
        self.write(self._frame(Opcode.PROOF, pb.Proof(signature=sign_proof(self.node.key, signed))))

    def _welcome(self, message: pb.Message, payload: Any, raw: bytes) -> None:
        self.welcome = True
        self.node.welcome(self)

    def _proxy_response(self, message: pb.Message, payload: Any, raw: bytes) -> None:
        origin = self._asked.pop(message.request_nonce, payload.origin_address)
        port = int(payload.proxy_address.rpartition(":")[2])
        self.world.trace(self.name, "is told", port)
        if self.node.key is None and self.told:
            assert self.told == {origin: port}, "another address on a live connection"
        self.told[origin] = port
        self.node.told(self, origin, port, payload)

    def _refusal(self, message: pb.Message, payload: Any, raw: bytes) -> None:
        origin = self._asked.pop(message.request_nonce, None)
        self.world.trace(self.name, "is refused", payload.code, payload.reason)
        if payload.code in (pb.REFUSAL_SUPERSEDED, pb.REFUSAL_DENIED):
            self.told.pop(self._origins.get(message.request_nonce, ""), None)
        if message.request_nonce in self._releasing:  # it has ended, and that is not on disk
            self.told.pop(self._releasing.pop(message.request_nonce)[0], None)
        if message.request_nonce == 0:
            self.closing = True
        elif origin is not None:
            self.node.refused(self, origin, payload.code)

    def _released(self, message: pb.Message, payload: Any, raw: bytes) -> None:
        origin, was_held = self._releasing.pop(message.request_nonce)
        self.told.pop(origin, None)
        # A request that was still to be granted is not answered any more.
        self._asked = {nonce: asked for nonce, asked in self._asked.items() if asked != origin}
        self.world.trace(self.name, "has released", repr(origin))
        if was_held:
            self.node.has_released(self, origin)

    def _draining(self, message: pb.Message, payload: Any, raw: bytes) -> None:
        self.closing = True

    def _nothing(self, message: pb.Message, payload: Any, raw: bytes) -> None: ...

    # ---------------------------------------------------------------- streams

    def _stream_open(self, message: pb.Message, payload: Any, raw: bytes) -> None:
        self._streams += 1
        assert message.request_nonce == self._streams, "streams are numbered in order"
        port = int(payload.proxy_address.rpartition(":")[2])
        assert self.told.get(payload.origin_address) == port or self._asked, (
            f"{self.name} hears a visitor of {port}"
        )

    def _stream_data(self, message: pb.Message, payload: Any, raw: bytes) -> None:
        stream, size = message.request_nonce, len(payload)
        credit = pb.StreamWindow(credit=size).SerializeToString()
        self.write(stream_control_frame(DEFAULT_NETWORK_ID, Opcode.STREAM_WINDOW, stream, credit))
        self.write(stream_data_prefix(DEFAULT_NETWORK_ID, stream, size) + payload)

    def _stream_end(self, message: pb.Message, payload: Any, raw: bytes) -> None:
        frame = stream_control_frame(
            DEFAULT_NETWORK_ID, Opcode.STREAM_END, message.request_nonce, b""
        )
        self.write(frame)

    # ---------------------------------------------------------------- the end

    def finished(self) -> None:
        self.close()
        self.node.lost(self)

    def lost(self) -> None:
        self.node.lost(self)


_HEARD: dict[int, Any] = {
    Opcode.KEEPALIVE_RESPONSE: NodeConnection._nothing,
    Opcode.PROXY_RESPONSE: NodeConnection._proxy_response,
    Opcode.CHALLENGE: NodeConnection._challenge,
    Opcode.WELCOME: NodeConnection._welcome,
    Opcode.REFUSAL: NodeConnection._refusal,
    Opcode.RELEASE: NodeConnection._released,
    Opcode.DRAINING: NodeConnection._draining,
    Opcode.STREAM_OPEN: NodeConnection._stream_open,
    Opcode.STREAM_DATA: NodeConnection._stream_data,
    Opcode.STREAM_END: NodeConnection._stream_end,
    Opcode.STREAM_WINDOW: NodeConnection._nothing,
    Opcode.STREAM_RESET: NodeConnection._nothing,
}
