"""Who a node is, and what it hears when it is not: the server's side of part B, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost

from proxyservice.errors import FrameError
from proxyservice.leases.lease import LeaseQuota, LeaseTimes
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import HEADER_BYTES
from proxyservice.wire.proof import is_small_order
from tests.leases.harness import store_thread
from tests.server.memory import ALL_FEATURES, NET, RELAY_ID, WINDOW, MemoryRelay, RawNode, Said

UNAUTHENTICATED = pb.REFUSAL_UNAUTHENTICATED


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


@pytest.fixture
def relay() -> MemoryRelay:
    return MemoryRelay()


def challenged(relay: MemoryRelay, seed: int = 1) -> tuple[RawNode, Said]:
    node = relay.node(seed)
    node.hello()
    return node, node.take(Opcode.CHALLENGE)


def told_and_closed(relay: MemoryRelay, node: RawNode, code: int) -> None:
    """A refusal of everything: said once, and the connection closed within a second or two."""
    assert node.refused() == (code, 0)
    relay.pass_time(2)
    assert node.lost is not None
    assert node.heard() == []


# ------------------------------------------------------------------ the way it goes


def test_a_proved_node_is_welcomed_with_what_holds_for_it() -> None:
    relay = MemoryRelay(times=LeaseTimes(ttl=60.0, proved_ttl=600.0), keepalive_seconds=7.0)
    node, challenge = challenged(relay)
    said = challenge.payload
    assert (said.version, said.binding_type, said.relay_id) == (1, 0, RELAY_ID)
    assert (len(said.server_nonce), said.valid_for_ms) == (32, 10_000)
    node.say(Opcode.PROOF, node.proof(challenge))
    welcome = node.take(Opcode.WELCOME)
    assert welcome.payload == pb.Welcome(
        features=ALL_FEATURES,
        proved=True,
        keepalive_ms=7_000,
        lease_ttl_ms=60_000,
        proved_ttl_ms=600_000,
        max_streams=1024,
        max_visitors=1024,
        max_frame_bytes=64 << 20,
    )
    node.ask("web", nonce=9)
    granted = node.take(Opcode.PROXY_RESPONSE)
    assert (granted.message.request_nonce, granted.message.reply_flag) == (9, True)
    assert granted.payload.mode == pb.MODE_STREAMS
    assert granted.payload.expires_in_ms == 600_000
    assert granted.payload.generation > 0
    assert [frame.message.message_nonce for frame in (challenge, welcome, granted)] == [1, 2, 3]


def test_requests_may_follow_the_proof_at_once_and_welcome_comes_first(relay: MemoryRelay) -> None:
    node, challenge = challenged(relay)
    request = node.frame(Opcode.PROXY_REQUEST, pb.ProxyRequest(mode=pb.MODE_STREAMS), 1)
    node.write(node.frame(Opcode.PROOF, node.proof(challenge)) + request)
    assert [said.opcode for said in node.heard()] == [Opcode.WELCOME, Opcode.PROXY_RESPONSE]


def test_only_features_of_both_sides_are_agreed(relay: MemoryRelay) -> None:
    node = relay.node()
    node.hello(features=1 << 63 | 1 << pb.FEATURE_RELEASE, initial_window=0)
    node.say(Opcode.PROOF, node.proof(node.take(Opcode.CHALLENGE)))
    assert node.take(Opcode.WELCOME).payload.features == 1 << pb.FEATURE_RELEASE
    node.ask(nonce=1, mode=pb.MODE_STREAMS)
    assert node.refused() == (pb.REFUSAL_DENIED, 1)
    node.ask(nonce=2, mode=pb.MODE_MESSAGES)
    assert node.take(Opcode.PROXY_RESPONSE).payload.mode == pb.MODE_MESSAGES


def test_how_many_leases_a_node_may_have_is_told_and_holds() -> None:
    relay = MemoryRelay(
        ports=range(20000, 20010),
        trusted_sources=(),
        quota=LeaseQuota(per_key=2, per_source=5),
    )
    node = relay.node()
    assert node.prove().payload.max_leases == 2
    node.lease("a", nonce=1)
    node.lease("b", nonce=2)
    node.ask("c", nonce=3)
    assert node.refused() == (pb.REFUSAL_QUOTA, 3)
    assert MemoryRelay().node().prove().payload.max_leases == 0, "trusted: not limited"


def test_the_lower_version_is_chosen(relay: MemoryRelay) -> None:
    node = relay.node()
    node.hello(version=7)
    assert node.take(Opcode.CHALLENGE).payload.version == 1


def test_a_request_in_the_place_of_a_proof_is_a_claimed_identity(relay: MemoryRelay) -> None:
    prover = relay.node(1)
    prover.prove()
    port = prover.lease("web")
    claimer, _ = challenged(relay, 1)  # the same key, and everything else public
    claimer.ask("web")
    welcome, granted = claimer.heard()
    assert (welcome.opcode, welcome.payload.proved) == (Opcode.WELCOME, False)
    assert granted.payload.proxy_address != f"127.0.0.1:{port}"
    assert prover.lost is None
    assert prover.heard() == []


@pytest.mark.parametrize("proves", [True, False])
def test_a_proof_after_the_identity_was_settled_ends_the_connection(
    relay: MemoryRelay, proves: bool
) -> None:
    node, challenge = challenged(relay)
    proof = node.proof(challenge)
    if proves:
        node.say(Opcode.PROOF, proof)
    else:
        node.ask()
    node.heard()
    node.say(Opcode.PROOF, proof)
    told_and_closed(relay, node, pb.REFUSAL_MALFORMED)


# ------------------------------------------------------------- proofs that are none


def unsigned(node: RawNode, challenge: Said) -> pb.Proof:
    return pb.Proof()


def short(node: RawNode, challenge: Said) -> pb.Proof:
    return pb.Proof(signature=node.proof(challenge).signature[:-1])


def altered(node: RawNode, challenge: Said) -> pb.Proof:
    signature = bytearray(node.proof(challenge).signature)
    signature[5] ^= 1
    return pb.Proof(signature=bytes(signature))


def changed(**parts: Any) -> Any:
    return lambda node, challenge: node.proof(challenge, **parts)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(unsigned, id="nothing"),
        pytest.param(short, id="63 bytes"),
        pytest.param(altered, id="one bit"),
        pytest.param(changed(relay_id=b"o" * 32), id="for another relay"),
        pytest.param(changed(server_nonce=b"o" * 32), id="of another challenge"),
        pytest.param(changed(client_nonce=b"o" * 32), id="of another hello"),
        pytest.param(changed(network_id=NET + 1), id="of another network"),
        pytest.param(changed(binding_type=1), id="of another binding type"),
        pytest.param(changed(binding=b"o" * 32), id="of another channel"),
        pytest.param(changed(hello_body=b"other"), id="a hello that was altered"),
        pytest.param(changed(challenge_body=b"other"), id="a challenge that was altered"),
        pytest.param(changed(net_key=b"o" * 32), id="of another key"),
    ],
)
def test_a_proof_that_does_not_verify(relay: MemoryRelay, make: Any) -> None:
    node, challenge = challenged(relay)
    node.say(Opcode.PROOF, make(node, challenge))
    told_and_closed(relay, node, UNAUTHENTICATED)


def test_a_proof_under_another_key_than_hello(relay: MemoryRelay) -> None:
    node, challenge = challenged(relay, 1)
    other = RawNode(relay, 2)
    other.hello_body = node.hello_body
    node.sender = other.sender
    node.say(Opcode.PROOF, other.proof(challenge))
    told_and_closed(relay, node, UNAUTHENTICATED)


def test_a_proof_that_comes_too_late(relay: MemoryRelay) -> None:
    node, challenge = challenged(relay)
    node.write(node.frame(Opcode.KEEPALIVE))  # not silent; and the first byte was long ago
    relay.clock.advance(10.0)  # nobody has ticked yet
    node.say(Opcode.PROOF, node.proof(challenge))
    told_and_closed(relay, node, UNAUTHENTICATED)


def test_a_failed_proof_is_not_tried_again(relay: MemoryRelay) -> None:
    node, challenge = challenged(relay)
    node.say(Opcode.PROOF, pb.Proof())
    assert node.refused() == (UNAUTHENTICATED, 0)
    node.say(Opcode.PROOF, node.proof(challenge))
    assert Opcode.WELCOME not in [said.opcode for said in node.heard()]
    relay.pass_time(2)
    assert node.lost is not None


def test_t2_a_thousand_recorded_handshakes_are_not_accepted(relay: MemoryRelay) -> None:
    victim = relay.node(1)
    victim.prove()
    port = victim.lease("web")
    recorded = victim.sent
    for _ in range(1000):
        thief = relay.node(1)
        for frame in recorded:
            if thief.lost is None:
                thief.write(frame)
        opcodes = [said.opcode for said in thief.heard()]
        assert opcodes[:2] == [Opcode.CHALLENGE, Opcode.REFUSAL]
        assert not {Opcode.WELCOME, Opcode.PROXY_RESPONSE}.intersection(opcodes)
        thief.transport.abortConnection()
        relay.pairs.pop()
    assert victim.lost is None
    assert victim.heard() == []
    visitor = relay.visit(port)
    assert visitor is not None
    assert victim.take(Opcode.STREAM_OPEN).payload.origin_address == "web"


def test_t2_a_proof_that_one_relay_was_shown_is_of_no_use_at_another() -> None:
    """A relay in the middle passes the other's nonce on, and cannot pass itself off as it."""
    honest, evil = MemoryRelay(), MemoryRelay(relay_id=b"evil" * 8)
    node = evil.node(1)
    node.hello()
    fake = node.take(Opcode.CHALLENGE)
    middle = honest.node(1)
    middle.hello()
    real = middle.take(Opcode.CHALLENGE)
    proof = node.proof(fake, server_nonce=real.payload.server_nonce)  # signed for "evil"
    middle.say(Opcode.PROOF, proof)
    told_and_closed(honest, middle, UNAUTHENTICATED)


def small_order_keys() -> list[bytes]:
    """All 14 encodings of wire.md: 7, each with the top bit of its last byte clear and set."""
    eighths = [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ]
    low = [bytes(32), b"\x01" + bytes(31), *map(bytes.fromhex, eighths)]
    low += [bytes((first,)) + b"\xff" * 30 + b"\x7f" for first in (0xEC, 0xED, 0xEE)]
    return [key[:-1] + bytes((key[-1] | top,)) for key in low for top in (0, 0x80)]


@pytest.mark.parametrize("key", small_order_keys(), ids=bytes.hex)
def test_keys_for_which_anybody_can_sign_prove_nothing(relay: MemoryRelay, key: bytes) -> None:
    assert is_small_order(key)
    node = relay.node()
    node.sender.net_key = key
    node.hello()
    node.take(Opcode.CHALLENGE)
    identity = b"\x01" + bytes(31)  # R = the neutral element, S = 0: verifies for some of them
    for signature in (identity + bytes(32), bytes(64), key + bytes(32)):
        if node.lost is None:
            node.say(Opcode.PROOF, pb.Proof(signature=signature))
    assert Opcode.WELCOME not in [said.opcode for said in node.heard()]


# ---------------------------------------------------------------- hellos that are none


@pytest.mark.parametrize(
    "fields",
    [
        {"client_nonce": b""},
        {"client_nonce": b"n" * 31},
        {"client_nonce": b"n" * 33},
        {"version": 0},
        {"initial_window": 0},
        {"initial_window": 1 << 31},
    ],
    ids=str,
)
def test_a_hello_that_makes_no_sense(relay: MemoryRelay, fields: dict[str, Any]) -> None:
    node = relay.node()
    node.hello(**fields)
    assert Opcode.CHALLENGE not in [said.opcode for said in node.heard()]
    relay.pass_time(6)
    assert node.lost is not None


def test_a_hello_that_is_not_the_first_frame_is_nothing(relay: MemoryRelay) -> None:
    node = relay.node()
    node.write(encode_message(NET, Opcode.PROXY_REQUEST, sender=node.sender))
    node.take(Opcode.PROXY_RESPONSE)
    node.hello()
    node.say(Opcode.PROOF, pb.Proof(signature=bytes(64)))
    node.say(Opcode.RELEASE, pb.Release(), 1)
    node.say(Opcode.STREAM_END, nonce=1)
    assert node.heard() == []
    node.say(Opcode.KEEPALIVE)
    assert node.take(Opcode.KEEPALIVE_RESPONSE).message.request_nonce == 0


def test_a_second_hello_changes_nothing(relay: MemoryRelay) -> None:
    node, challenge = challenged(relay)
    first_body = node.hello_body
    node.hello(client_nonce=b"2" * 32)
    node.hello_body = first_body
    assert node.heard() == []
    node.say(Opcode.PROOF, node.proof(challenge))
    assert node.take(Opcode.WELCOME).payload.proved
    node.hello()
    assert node.heard() == []
    assert node.lost is None


def test_a_node_that_stops_after_hello_is_closed_in_ten_seconds(relay: MemoryRelay) -> None:
    node, _ = challenged(relay)
    for _ in range(9):
        relay.pass_time(1)
        node.say(Opcode.KEEPALIVE)
    assert node.lost is None
    assert node.heard() == []
    relay.pass_time(1.5)
    assert node.lost is not None


def test_four_kib_are_enough_to_say_who_one_is(relay: MemoryRelay) -> None:
    node, _ = challenged(relay)
    while node.lost is None:
        node.say(Opcode.KEEPALIVE)
    assert sum(map(len, node.sent)) < 4096 + 256


def test_a_node_of_part_b_that_falls_silent_is_gone(relay: MemoryRelay) -> None:
    node = relay.node()
    node.prove()
    port = node.lease()
    relay.pass_time(44)
    assert node.lost is None
    relay.pass_time(2)
    assert isinstance(node.lost, ConnectionLost)
    assert relay.visit(port) is None


# -------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("opcode", "payload"),
    [(Opcode.PROXY_REQUEST, pb.ProxyRequest()), (Opcode.RELEASE, pb.Release())],
    ids=["ProxyRequest", "Release"],
)
def test_a_request_without_a_number_ends_the_connection(
    relay: MemoryRelay, opcode: int, payload: Any
) -> None:
    node = relay.node()
    node.prove()
    node.say(opcode, payload)
    told_and_closed(relay, node, pb.REFUSAL_MALFORMED)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"mode": 2}, pb.REFUSAL_DENIED),
        ({"proxy_address": "nonsense"}, pb.REFUSAL_ADDRESS_UNAVAILABLE),
        ({"proxy_address": ":99999"}, pb.REFUSAL_ADDRESS_UNAVAILABLE),
        ({"proxy_address": ":80"}, pb.REFUSAL_ADDRESS_UNAVAILABLE),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_granted_is_refused_and_nothing_else(
    relay: MemoryRelay, fields: dict[str, Any], code: int
) -> None:
    node = relay.node()
    node.prove()
    port = node.lease("other", nonce=1)
    node.ask("web", nonce=77, **fields)
    assert node.refused() == (code, 77)
    assert node.lease("other", nonce=2) == port


@pytest.mark.parametrize("fields", [{"label": "x" * 65}, {"origin": "x" * 1025}], ids=["l", "o"])
def test_what_is_too_long_ends_the_connection(relay: MemoryRelay, fields: dict[str, str]) -> None:
    node = relay.node()
    node.prove()
    node.ask(**fields)
    told_and_closed(relay, node, pb.REFUSAL_MALFORMED)


def test_a_wanted_port_is_granted_moved_to_or_refused(relay: MemoryRelay) -> None:
    first, second = relay.node(1), relay.node(2)
    first.prove()
    second.prove()
    assert first.lease("a", proxy_address=":20002") == 20002
    assert first.lease("b", nonce=2, proxy_address="relay.example:20003") == 20003
    second.ask(nonce=1, proxy_address=":20002")
    assert second.refused() == (pb.REFUSAL_ADDRESS_UNAVAILABLE, 1)
    assert second.lease(nonce=2, proxy_address="[2001:db8::1]:20001") == 20001
    assert first.lease("a", nonce=3, proxy_address=":20000") == 20000
    assert relay.run.sockets.bound == {20000, 20001, 20003}
    first.ask("a", nonce=4, proxy_address=":20001")
    assert first.refused() == (pb.REFUSAL_ADDRESS_UNAVAILABLE, 4)
    assert relay.visit(20000) is not None, "the old address stays"


def test_no_port_left_is_told_with_a_hint_and_the_connection_stays() -> None:
    relay = MemoryRelay(ports=range(20000, 20001))
    first, second = relay.node(1), relay.node(2)
    first.prove()
    second.prove()
    first.lease()
    second.ask(nonce=5)
    said = second.take(Opcode.REFUSAL)
    assert (said.payload.code, said.message.request_nonce) == (pb.REFUSAL_EXHAUSTED, 5)
    relay.pass_time(5)
    assert second.lost is None


# --------------------------------------------------------- several origins, modes, release


def test_several_origins_share_one_connection_and_streams_say_whose_they_are(
    relay: MemoryRelay,
) -> None:
    node = relay.node()
    node.prove()
    ports = {origin: node.lease(origin, nonce=n + 1) for n, origin in enumerate(["a", "b", ""])}
    assert len(set(ports.values())) == 3
    for number, (origin, port) in enumerate(ports.items()):
        relay.visit(port)
        opened = node.take(Opcode.STREAM_OPEN)
        assert opened.message.request_nonce == number + 1
        assert opened.payload == pb.StreamOpen(
            visitor_address=f"192.0.2.9:{40001 + number}",
            proxy_address=f"127.0.0.1:{port}",
            origin_address=origin,
            initial_window=WINDOW,
            server_window=WINDOW,
        )


def test_asking_again_is_the_same_address(relay: MemoryRelay) -> None:
    node = relay.node()
    node.prove()
    port = node.lease("a")
    visitor = relay.visit(port)
    node.take(Opcode.STREAM_OPEN)
    assert node.lease("a", nonce=2) == port
    assert visitor is not None
    assert visitor.lost is None


def test_the_other_mode_closes_the_visitors_and_keeps_the_address(relay: MemoryRelay) -> None:
    node = relay.node()
    node.prove()
    port = node.lease("a")
    visitor = relay.visit(port)
    assert visitor is not None
    node.take(Opcode.STREAM_OPEN)
    node.ask("a", nonce=2, mode=pb.MODE_MESSAGES)
    said = {one.opcode: one for one in node.heard()}
    assert said[Opcode.STREAM_RESET].payload.code == pb.RESET_LEASE_GONE
    assert said[Opcode.PROXY_RESPONSE].payload.proxy_address == f"127.0.0.1:{port}"
    assert said[Opcode.PROXY_RESPONSE].payload.mode == pb.MODE_MESSAGES
    assert visitor.lost is not None
    sender = pb.ID(net_key=b"v", address="tcp://192.0.2.9:1")
    frame = encode_message(NET, 1000, b"hello", sender=sender)
    relay_visitor = relay.visit(port)
    assert relay_visitor is not None
    relay_visitor.transport.write(frame)
    relay.pump()
    assert node.take(1000).raw == frame


def test_one_connection_has_one_message_lease(relay: MemoryRelay) -> None:
    node = relay.node()
    node.prove()
    node.lease("a", mode=pb.MODE_MESSAGES)
    node.ask("b", nonce=2, mode=pb.MODE_MESSAGES)
    assert node.refused() == (pb.REFUSAL_QUOTA, 2)
    node.lease("b", nonce=3, mode=pb.MODE_STREAMS)
    node.ask("b", nonce=4, mode=pb.MODE_MESSAGES)
    assert node.refused() == (pb.REFUSAL_QUOTA, 4)


def test_a_release_is_confirmed_and_closes_visitors_and_port(relay: MemoryRelay) -> None:
    node = relay.node()
    node.prove()
    port, kept = node.lease("a"), node.lease("b", nonce=2)
    visitor = relay.visit(port)
    node.take(Opcode.STREAM_OPEN)
    node.say(Opcode.RELEASE, pb.Release(origin_address="a"), 3)
    said = {one.opcode: one for one in node.heard()}
    assert said.keys() == {Opcode.STREAM_RESET, Opcode.RELEASE}
    confirmed = said[Opcode.RELEASE]
    assert (confirmed.message.request_nonce, confirmed.message.reply_flag) == (3, True)
    assert confirmed.payload.origin_address == "a"
    assert visitor is not None
    assert visitor.lost is not None
    assert relay.run.sockets.bound == {kept}
    node.say(Opcode.RELEASE, pb.Release(origin_address="a"), 4)
    assert node.take(Opcode.RELEASE).message.request_nonce == 4, "it is not held: as was wanted"


def test_a_release_before_the_identity_ends_the_connection(relay: MemoryRelay) -> None:
    node, _ = challenged(relay)
    node.say(Opcode.RELEASE, pb.Release(), 1)
    told_and_closed(relay, node, pb.REFUSAL_MALFORMED)


# ------------------------------------------------------------------------- taking over


def test_the_same_key_takes_over_and_the_older_is_told_why(relay: MemoryRelay) -> None:
    old, new = relay.node(1), relay.node(1)
    old.prove()
    port = old.lease("a")
    visitor = relay.visit(port)
    old.take(Opcode.STREAM_OPEN)
    new.prove()
    assert new.lease("a") == port
    assert visitor is not None
    assert visitor.lost is not None
    said = [one for one in old.heard() if one.opcode == Opcode.REFUSAL]
    assert [one.payload.code for one in said] == [pb.REFUSAL_SUPERSEDED]
    assert said[0].message.request_nonce == 0, "it has no other lease: it is asked to leave"
    relay.pass_time(2)
    assert old.lost is not None
    relay.visit(port)
    new.take(Opcode.STREAM_OPEN)


def test_a_node_with_another_lease_loses_this_one_alone(relay: MemoryRelay) -> None:
    old, new = relay.node(1), relay.node(1)
    old.prove()
    old.lease("a", nonce=5)
    kept = old.lease("b", nonce=6)
    new.prove()
    new.lease("a")
    assert old.refused() == (pb.REFUSAL_SUPERSEDED, 5)
    relay.pass_time(3)
    assert old.lost is None
    relay.visit(kept)
    old.take(Opcode.STREAM_OPEN)


def test_another_key_takes_nothing_over(relay: MemoryRelay) -> None:
    first, second = relay.node(1), relay.node(2)
    first.prove()
    second.prove()
    assert first.lease("a") != second.lease("a")
    assert first.heard() == []


def test_after_a_restart_the_key_has_its_address_and_a_claim_has_not(relay: MemoryRelay) -> None:
    node = relay.node(1)
    node.prove()
    port = node.lease("a")
    node.transport.abortConnection()
    claimer, _ = challenged(relay, 1)
    claimer.ask("a")
    claimed = claimer.heard()[-1].payload.proxy_address
    assert claimed != f"127.0.0.1:{port}"
    again = relay.node(1)
    again.prove()
    assert again.lease("a") == port


def test_all_fourteen_small_order_keys_are_known() -> None:
    """This list is the protocol's, written down again."""
    assert len({key for key in small_order_keys() if is_small_order(key)}) == 14
    assert not is_small_order(b"\x02" + bytes(31))


def test_a_body_of_hello_is_signed_as_sent(relay: MemoryRelay) -> None:
    """Unknown fields and odd orders are covered too: the hash is of the bytes, not of the sense."""
    node = relay.node()
    frame = node.frame(
        Opcode.HELLO,
        pb.Hello(
            version=1, features=ALL_FEATURES, client_nonce=node.client_nonce, initial_window=WINDOW
        ),
    )
    body = frame[HEADER_BYTES:] + b"\xfa\x7f\x03new"  # field 2047
    node.hello_body = body
    node.write(frame[:6] + len(body).to_bytes(4, "big") + body)
    node.say(Opcode.PROOF, node.proof(node.take(Opcode.CHALLENGE)))
    assert node.take(Opcode.WELCOME).payload.proved


def test_errors_of_the_handshake_are_declared_ones(relay: MemoryRelay) -> None:
    from proxyservice.net.tls_transport import Channel
    from proxyservice.server.handshake import Handshake

    message = pb.Message(opcode=Opcode.HELLO, message=b"\xff\xff")
    with pytest.raises(FrameError):
        Handshake(NET, RELAY_ID, Channel(), message, b"")
