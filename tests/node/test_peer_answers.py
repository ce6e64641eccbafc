"""What deployed peers want to hear back, and that asking for it costs little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from proxyservice.errors import UnreachableError
from proxyservice.node import peers as peers_module
from proxyservice.node.messages import Received, encode_application_message, received
from proxyservice.node.peer_answers import (
    ADDRESSES,
    ANSWERS_AT_ONCE,
    LONGEST_REST_SECONDS,
    MESSAGE_ID_BYTES,
    PeerAnswers,
)
from proxyservice.node.peers import ANSWERED, ANSWERS_DIALLED, ANSWERS_UNSENT_BYTES
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, encode_frame
from tests.node.test_node import Scene as NodeScene
from tests.node.test_peers import Scene as LinkScene
from tests.node.test_peers import is_unreachable

PEER = "203.0.113.5:20001"


def message(opcode: int = Opcode.PING, *, address: str = PEER, **fields: Any) -> Received:
    sender = pb.ID(net_key=b"peer", address=address if "://" in address else "tcp://" + address)
    return received(
        pb.Message(opcode=opcode, sender=sender, netID=DEFAULT_NETWORK_ID, **fields),
        DEFAULT_NETWORK_ID,
    )


class Scene:
    """Answers that were sent: (address, opcode, payload, request_nonce)."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.sent: list[tuple[str, int, bytes, int]] = []
        self.down = False
        self.pending: list[Deferred[None]] | None = None
        self.answers = PeerAnswers(self._send, self.clock, lambda: 125.0)

    def _send(self, *answer: Any) -> Deferred[None]:
        self.sent.append(answer)
        if self.pending is not None:
            self.pending.append(Deferred())
            return self.pending[-1]
        return fail(UnreachableError("nobody")) if self.down else succeed(None)

    def hear(self, *args: Any, **fields: Any) -> list[tuple[str, int, bytes, int]]:
        self.sent.clear()
        self.answers.heard(message(*args, **fields), "127.0.0.1:20000")
        return list(self.sent)


def test_a_ping_hears_pong_and_a_keepalive_its_response() -> None:
    scene = Scene()
    assert scene.hear(Opcode.PING) == [(PEER, Opcode.PONG, b"", 0)]
    assert scene.hear(Opcode.PING, request_nonce=7) == [(PEER, Opcode.PONG, b"", 7)]
    assert scene.hear(Opcode.KEEPALIVE) == [(PEER, Opcode.KEEPALIVE_RESPONSE, b"", 0)]


def test_a_message_with_an_id_is_acknowledged() -> None:
    scene = Scene()
    ack = pb.AsyncAckResponse(send_timestamp=5, message_id="m-1").SerializeToString()
    acknowledged = [(PEER, Opcode.ASYNC_ACK_RESPONSE, ack, 0)]
    assert scene.hear(1000, MessageID="m-1", need_ack=True) == acknowledged
    assert scene.hear(1000, MessageID="m-1") == acknowledged, "as deployed nodes do"
    opcodes = [opcode for _, opcode, _, _ in scene.hear(Opcode.PING, MessageID="m-1")]
    assert opcodes == [Opcode.PONG, Opcode.ASYNC_ACK_RESPONSE]


@pytest.mark.parametrize(
    "opcode", [1000, Opcode.PONG, Opcode.KEEPALIVE_RESPONSE, Opcode.LOOKUP_NODE_REQUEST]
)
def test_nothing_else_is_answered(opcode: int) -> None:
    scene = Scene()
    assert scene.hear(opcode) == []
    assert scene.answers.dropped == 0


def test_an_acknowledgement_is_never_acknowledged() -> None:
    assert Scene().hear(Opcode.ASYNC_ACK_RESPONSE, MessageID="m") == []


@pytest.mark.parametrize(
    "address",
    [
        "udp://203.0.113.5:20001",
        "kcp://203.0.113.5:20001",
        "203.0.113.5",
        "203.0.113.5:0",
        "203.0.113.5:99999",
        "tcp://",
        "tcp://a b:1",
        "127.0.0.1:20000",
    ],
)
def test_an_address_that_is_none_or_our_own_is_not_answered(address: str) -> None:
    scene = Scene()
    assert scene.hear(Opcode.PING, address=address) == []
    assert scene.answers.dropped == 1


def test_a_long_id_is_not_sent_back() -> None:
    scene = Scene()
    assert len(scene.hear(1000, MessageID="x" * MESSAGE_ID_BYTES)) == 1
    assert scene.hear(1000, MessageID="x" * (MESSAGE_ID_BYTES + 1)) == []
    assert scene.hear(1000, MessageID="\u00e9" * (MESSAGE_ID_BYTES // 2 + 1)) == []


def test_a_flood_of_pings_hears_a_few_pongs_and_others_theirs() -> None:
    scene = Scene()
    answered = sum(len(scene.hear(Opcode.PING)) for _ in range(1000))
    assert answered == ANSWERS_AT_ONCE
    assert len(scene.hear(Opcode.PING, address="203.0.113.6:1")) == 1
    for _ in range(20):
        scene.clock.advance(3)
        assert len(scene.hear(Opcode.KEEPALIVE)) == 1
    acknowledged = sum(len(scene.hear(1000, MessageID=str(n))) for n in range(1000))
    assert acknowledged == 1000, "these are bounded by what may wait"


def test_an_address_that_fails_is_left_alone_longer_and_longer() -> None:
    scene = Scene()
    scene.down = True
    tries = []
    for second in range(1200):
        if scene.hear(Opcode.PING):
            tries.append(second)
        scene.clock.advance(1)
    assert tries == [0, 5, 15, 35, 75, 155, 315, 615, 915]
    scene.down = False
    scene.clock.advance(LONGEST_REST_SECONDS)
    assert len(scene.hear(Opcode.PING)) == 1
    scene.down = True
    scene.hear(Opcode.PING)
    scene.clock.advance(5)
    assert len(scene.hear(Opcode.PING)) == 1, "once reached, it begins anew"


def test_what_waited_for_one_connection_is_one_failure() -> None:
    scene = Scene()
    scene.pending = []
    for _ in range(5):
        scene.hear(Opcode.PING)
    pending, scene.pending = scene.pending, None
    for one in pending:
        one.errback(UnreachableError("nobody"))
    scene.clock.advance(5)
    assert len(scene.hear(Opcode.PING)) == 1


def test_what_is_remembered_is_bounded() -> None:
    scene = Scene()
    for number in range(3 * ADDRESSES):
        scene.hear(Opcode.PING, address=f"203.0.113.5:{number % 60000 + 1}")
    assert len(scene.answers._addresses) == ADDRESSES


# ------------------------------------------------------------------ connections


def answer(scene: LinkScene, address: str, frame: bytes = b"x") -> list[Any]:
    results: list[Any] = []
    scene.links.answer(address, frame).addBoth(results.append)
    return results


def test_answers_never_close_what_the_application_uses() -> None:
    scene = LinkScene()
    for number in range(100):
        assert scene.send(f"app:{number + 1}", b"x") == [None]
    for number in range(500):
        assert answer(scene, f"ask:{number + 1}") == [None]
    assert len(scene.links) == 100 + ANSWERED
    for number in range(100):
        scene.send(f"app:{number + 1}", b"x")
        assert len(scene.ports[f"app:{number + 1}"].pairs) == 1


def test_the_application_s_connections_come_before_answers(monkeypatch: Any) -> None:
    monkeypatch.setattr(peers_module, "CONNECTIONS", 3)
    scene = LinkScene()
    for address in ("app:1", "app:2"):
        scene.send(address, b"x")
    answer(scene, "ask:1")
    scene.send("app:3", b"x")
    assert set(scene.links._links) == {"app:1", "app:2", "app:3"}


def test_a_connection_for_answers_that_the_application_uses_too_is_its_own() -> None:
    scene = LinkScene()
    answer(scene, "a:1")
    scene.send("a:1", b"x")
    for number in range(ANSWERED + 5):
        answer(scene, f"ask:{number + 1}")
    assert "a:1" in scene.links._links


def test_so_many_are_dialled_at_a_time_and_for_so_long() -> None:
    scene = LinkScene()
    for number in range(ANSWERS_DIALLED + 1):
        scene.port(f"dark:{number + 1}").late = []
    waiting = [answer(scene, f"dark:{number + 1}") for number in range(ANSWERS_DIALLED)]
    assert waiting == [[]] * ANSWERS_DIALLED
    assert is_unreachable(answer(scene, f"dark:{ANSWERS_DIALLED + 1}"))
    scene.clock.advance(11)
    assert all(is_unreachable(one) for one in waiting)
    assert len(scene.links) == 0
    assert answer(scene, "good:1") == [None]
    scene.links.close()
    assert scene.clock.getDelayedCalls() == []


def test_a_message_of_the_application_waits_longer_than_an_answer() -> None:
    scene = LinkScene()
    scene.port("a:1").late = []
    answered, sent = answer(scene, "a:1"), scene.send("a:1", b"y")
    scene.clock.advance(11)
    assert answered == sent == []


def test_a_peer_that_takes_no_answers_is_sent_no_more() -> None:
    scene = LinkScene()
    scene.port("a:1").kernel_bytes = 0
    assert answer(scene, "a:1", b"x" * ANSWERS_UNSENT_BYTES) == []
    assert is_unreachable(answer(scene, "a:1"))


# --------------------------------------------------------------------- the node


def visitor_message(**fields: Any) -> bytes:
    sender = pb.ID(net_key=b"peer", address="tcp://" + PEER)
    one = pb.Message(sender=sender, netID=DEFAULT_NETWORK_ID, **fields)
    return encode_frame(DEFAULT_NETWORK_ID, one.SerializeToString(), algorithm=2)


def answers_of(scene: NodeScene) -> list[tuple[str, pb.Message]]:
    sent: list[tuple[str, pb.Message]] = []

    def note(address: str, frame: bytes) -> Deferred[None]:
        sent.append((address, pb.Message.FromString(frame[10:])))
        return succeed(None)

    scene.node._peers.answer = note  # type: ignore[method-assign]
    return sent


def test_a_node_answers_by_itself_and_tells_its_listeners() -> None:
    scene = NodeScene().start()
    sent = answers_of(scene)
    scene.relay(visitor_message(opcode=Opcode.PING), visitor_message(opcode=1000, MessageID="m"))
    (where, pong), (_, ack) = sent
    assert where == PEER
    assert (pong.opcode, pong.reply_flag, pong.netID) == (Opcode.PONG, False, DEFAULT_NETWORK_ID)
    assert pong.sender == scene.node.identity.sender
    assert pong.sender.address == "tcp://" + str(scene.node._leases.first(0).address)  # type: ignore[union-attr,arg-type]
    assert ack.opcode == Opcode.ASYNC_ACK_RESPONSE
    assert pb.AsyncAckResponse.FromString(ack.message).message_id == "m"
    assert [one.opcode for one in scene.messages] == [Opcode.PING, 1000]


def test_a_node_that_is_not_to_answer_does_not() -> None:
    scene = NodeScene(answers_peers=False).start()
    sent = answers_of(scene)
    scene.relay(visitor_message(opcode=Opcode.PING))
    assert sent == []
    assert len(scene.messages) == 1


def test_answers_are_the_golden_ones() -> None:
    """But for the header's word on compression, which states a configuration."""
    vectors = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())
    golden = {one["name"]: bytes.fromhex(one["hex"]) for one in vectors}
    for name, opcode, payload, nonce in (
        ("tcp_pong", Opcode.PONG, b"", 1),
        (
            "tcp_async_ack_response",
            Opcode.ASYNC_ACK_RESPONSE,
            pb.AsyncAckResponse(send_timestamp=42, message_id="msg-id").SerializeToString(),
            2,
        ),
    ):
        sender = pb.Message.FromString(golden[name][10:]).sender
        frame = encode_application_message(
            DEFAULT_NETWORK_ID, opcode, payload, sender=sender, message_nonce=nonce
        )
        assert frame[10:] == golden[name][10:], name
