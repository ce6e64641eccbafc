"""All golden frames, in both directions."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.errors import FrameError
from proxyservice.wire import identity, lzw
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.compression import compress, decompress
from proxyservice.wire.envelope import (
    Opcode,
    decode_datagram,
    decode_main,
    decode_message,
    encode_datagram,
    encode_message,
    parse_payload,
)
from proxyservice.wire.framing import (
    DEFAULT_MAX_FRAME_BYTES,
    DEFAULT_NETWORK_ID,
    HEADER_BYTES,
    Frame,
    FrameDecoder,
    encode_frame,
)
from proxyservice.wire.relay_check import RelayScanner
from tests.conftest import VECTORS

NET = DEFAULT_NETWORK_ID
SEEDS = {"a": bytes(range(32)), "b": bytes(range(32, 64))}
FRAMES = [n for n in VECTORS if n.startswith("tcp_") and "message" in VECTORS[n]["inputs"]]
COMPRESSED = [n for n in VECTORS if "uncompressed_hex" in VECTORS[n]["inputs"]]
BAD = [n for n in VECTORS if n.startswith("bad_") and VECTORS[n]["inputs"]["expect"] == "close"]


def raw(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


def decode(data: bytes) -> Frame:
    (frame,) = FrameDecoder(NET, DEFAULT_MAX_FRAME_BYTES).feed(data)
    assert isinstance(frame, Frame)
    return frame


def sender_of(fields: dict[str, str]) -> pb.ID:
    binary = {k: bytes.fromhex(v) for k, v in fields.items() if k != "address"}
    return pb.ID(address=fields["address"], **binary)


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_decodes_and_encodes_to_itself(name: str) -> None:
    inputs: dict[str, Any] = VECTORS[name]["inputs"]
    fields = inputs["message"]
    message = decode_main(decode(raw(name)), NET)
    assert message.opcode == fields["opcode"]
    assert message.sender == sender_of(fields["sender"])
    info = int(inputs["header"]["compress_info"], 16)
    encoded = encode_message(
        NET,
        fields["opcode"],
        bytes.fromhex(fields["message_hex"]),
        sender=sender_of(fields["sender"]),
        request_nonce=fields.get("request_nonce", 0),
        message_nonce=fields.get("message_nonce", 0),
        reply=fields.get("reply_flag", False),
        signature=bytes.fromhex(fields.get("signature", "")),
        algorithm=info & 0xFF,
    )
    if not fields.get("MessageID") and not fields.get("need_ack"):
        assert encoded == raw(name)
    assert message.SerializeToString() == raw(name)[HEADER_BYTES:]


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_body_inflates(name: str) -> None:
    plain = bytes.fromhex(VECTORS[name]["inputs"]["uncompressed_hex"])
    frame = decode(raw(name))
    assert bytes(decompress(frame.algorithm, frame.body, len(plain))) == plain
    assert decode_message(frame).opcode == 1000
    if frame.algorithm in (2, 3, 4):  # the others are bounded by the frame itself
        with pytest.raises(FrameError):
            decompress(frame.algorithm, frame.body, len(plain) - 1)


def test_lzw_is_go_s() -> None:
    name = "tcp_app_1000_lzw"
    plain = bytes.fromhex(VECTORS[name]["inputs"]["uncompressed_hex"])
    assert compress(4, plain) == raw(name)[HEADER_BYTES:]
    long = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(400))
    plains = {"lzw_one": b"a", "lzw_zeros": bytes(20000)}
    plains["lzw_tobe"] = bytes.fromhex(VECTORS["lzw_tobe"]["inputs"]["plain_hex"])
    for vector, data in plains.items():
        assert lzw.encode(data) == raw(vector)
        assert lzw.decode(raw(vector), len(data)) == data
    assert hashlib.sha256(lzw.encode(long)).hexdigest() == VECTORS["lzw_long"]["hex"]
    assert lzw.decode(lzw.encode(long), len(long)) == long


@given(st.binary(max_size=3000))
def test_every_algorithm_gives_back_what_it_took(plain: bytes) -> None:
    for algorithm in range(6):
        assert bytes(decompress(algorithm, compress(algorithm, plain), 3000)) == plain


@pytest.mark.parametrize("who", ["a", "b"])
def test_identities(who: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(SEEDS[who]).public_key().public_bytes_raw()
    vector = VECTORS[f"identity_{who}_connection_id"]
    assert key.hex() == vector["inputs"]["net_key"]
    assert identity.node_id(key).hex() == VECTORS[f"identity_{who}_id"]["hex"]
    address = vector["inputs"]["address"]
    connection_id = identity.connection_id(key, address)
    assert connection_id.hex() == vector["hex"]
    message = pb.ID(
        net_key=key, address=address, id=identity.node_id(key), connection_id=connection_id
    )
    assert message.SerializeToString() == raw(f"identity_{who}_id_message")


def test_hashes() -> None:
    assert identity.blake2b_256(b"abc") == raw("blake2b256_abc")
    assert identity.blake2b_256(raw("serialize_message_proxyrequest")) == raw("digest_proxyrequest")


@pytest.mark.parametrize(("what", "who"), [("proxyrequest", "a"), ("chat", "b")])
def test_signatures(what: str, who: str) -> None:
    inputs = VECTORS[f"serialize_message_{what}"]["inputs"]
    sender, payload = sender_of(inputs["sender"]), bytes.fromhex(inputs["message"])
    signed = identity.signing_input(sender.address, sender.id, payload)
    assert signed == raw(f"serialize_message_{what}")
    key = Ed25519PrivateKey.from_private_bytes(SEEDS[who])
    signature = identity.sign(key, sender.address, sender.id, payload)
    assert signature == raw(f"signature_{what}")
    assert identity.verify(sender.net_key, signature, sender.address, sender.id, payload)
    assert not identity.verify(sender.net_key, signature, sender.address, sender.id, b"x")


def test_a_wrong_signature_is_refused() -> None:
    frame = bytearray(raw("tcp_proxy_request_signed"))
    signature = raw("signature_proxyrequest")
    frame[frame.index(signature)] ^= 1
    with pytest.raises(FrameError):
        decode_main(decode(bytes(frame)), NET)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_frame_is_an_error_on_both_ports(name: str) -> None:
    with pytest.raises(FrameError):
        _main(raw(name))
    with pytest.raises(FrameError):
        list(RelayScanner(NET, DEFAULT_MAX_FRAME_BYTES).feed(raw(name)))


def test_datagrams() -> None:
    for name in [n for n in VECTORS if n.startswith("udp_")]:
        message = decode_datagram(raw(name) + b"ignored")
        assert message.SerializeToString() == raw(name)[2:]
    inputs = VECTORS["udp_proxy_request"]["inputs"]
    encoded = encode_datagram(NET, Opcode.PROXY_REQUEST, sender=sender_of(inputs["sender"]))
    assert encoded == raw("udp_proxy_request")
    with pytest.raises(FrameError):
        decode_datagram(raw("bad_udp_length_overflow"))


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("udp_proxy_response", pb.ProxyResponse(proxy_address="127.0.0.1:55600")),
        ("udp_keepalive_response", pb.KeepaliveResponse()),
    ],
)
def test_the_datagrams_of_the_server(name: str, payload: Any) -> None:
    message = decode_datagram(raw(name))
    assert encode_datagram(NET, message.opcode, payload, sender=message.sender) == raw(name)
    assert parse_payload(message) == payload


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("tcp_proxy_response", pb.ProxyResponse(proxy_address="127.0.0.1:55600")),
        ("tcp_keepalive_response", pb.KeepaliveResponse()),
        ("tcp_disconnect", pb.Disconnect()),
        ("tcp_ping", pb.Ping()),
        ("tcp_async_ack_response", pb.AsyncAckResponse(send_timestamp=42, message_id="msg-id")),
    ],
)
def test_payloads(name: str, payload: Any) -> None:
    assert parse_payload(decode_message(decode(raw(name)))) == payload


def test_what_arrives_on_the_main_connection_is_the_visitor_s_frame() -> None:
    visitor_frame = raw(VECTORS["relay_main_frame"]["inputs"]["visitor_frame"])
    (run,) = RelayScanner(NET, DEFAULT_MAX_FRAME_BYTES).feed(visitor_frame)
    assert bytes(run) == raw("relay_main_frame")


@pytest.mark.parametrize("name", ["tcp_app_1000_none_identity", "tcp_app_1000_bzip2_identity"])
def test_identity_algorithms_encode_to_the_same_frame(name: str) -> None:
    plain = bytes.fromhex(VECTORS[name]["inputs"]["uncompressed_hex"])
    algorithm = decode(raw(name)).algorithm
    body = bytes(compress(algorithm, plain))
    assert encode_frame(NET, body, flag=1, algorithm=algorithm) == raw(name)


def test_opcodes_are_those_of_the_contract() -> None:
    names = {f"OPCODE_{opcode.name}": opcode.value for opcode in Opcode}
    assert names == dict(pb.Opcode.items())


ALL = b"".join(raw(name) for name in FRAMES)


@given(st.lists(st.integers(1, 400), max_size=40))
def test_any_chunking_gives_the_same_frames(cuts: list[int]) -> None:
    decoder, got, pos = FrameDecoder(NET, 1 << 20), b"", 0
    for cut in [*cuts, len(ALL)]:
        chunk = ALL[pos : pos + cut]
        got += b"".join(bytes(f.raw) for f in decoder.feed(chunk) if isinstance(f, Frame))
        pos += len(chunk)
    assert got == ALL
    assert decoder.buffered_bytes == 0


RELAYED = b"".join(raw(n) for n in (*COMPRESSED, "tcp_app_1000_plain", "tcp_ping", "tcp_pong"))


@given(st.lists(st.integers(1, 900), max_size=40))
def test_what_is_relayed_equals_what_came(cuts: list[int]) -> None:
    scanner, got, pos = RelayScanner(NET, 1 << 20), b"", 0
    for cut in [*cuts, len(RELAYED)]:
        chunk = RELAYED[pos : pos + cut]
        got += b"".join(bytes(run) for run in scanner.feed(chunk))
        pos += len(chunk)
    assert got == RELAYED


@pytest.mark.parametrize("opcode", [9, 15, *range(32, 64)])
def test_a_visitor_cannot_speak_as_the_server(opcode: int) -> None:
    sender = sender_of(VECTORS["tcp_ping"]["inputs"]["message"]["sender"])
    frame = encode_message(NET, opcode, sender=sender)
    with pytest.raises(FrameError):
        list(RelayScanner(NET, 1 << 20).feed(frame))


@pytest.mark.parametrize(
    "address", ["", "tcp://", "tcp://host", "tcp://host:0", "tcp://host:65536", "http://h:1", "h:1"]
)
def test_a_visitor_needs_an_address(address: str) -> None:
    frame = encode_message(NET, 1000, sender=pb.ID(net_key=b"k", address=address))
    with pytest.raises(FrameError):
        list(RelayScanner(NET, 1 << 20).feed(frame))


def test_good_frames_before_a_bad_one_are_relayed() -> None:
    runs, good = [], raw("tcp_ping")
    with pytest.raises(FrameError):
        runs.extend(RelayScanner(NET, 1 << 20).feed(good + good + raw("bad_no_sender")))
    for run in (runs := []) or RelayScanner(NET, 1 << 20).feed(good + good):
        assert bytes(run) == good + good


def test_mutations_raise_frame_errors_only() -> None:
    seeded = random.Random(1564141146)
    names = [*FRAMES, *COMPRESSED]
    for _ in range(20_000):
        frame = bytearray(raw(seeded.choice(names)))
        for _ in range(seeded.randint(1, 4)):
            frame[seeded.randrange(len(frame))] = seeded.randrange(256)
        for check in (_main, _relay):
            try:
                check(bytes(frame))
            except FrameError:
                continue


def _main(data: bytes) -> None:
    for frame in FrameDecoder(NET, 1 << 16).feed(data):
        assert isinstance(frame, Frame)
        decode_main(frame, NET)


def _relay(data: bytes) -> None:
    list(RelayScanner(NET, 1 << 16).feed(data))


def test_a_bomb_stays_within_its_bound() -> None:
    bomb = compress(2, bytes(64 << 20))
    with pytest.raises(FrameError, match="more than"):
        decompress(2, bomb, 256 * 1024)
