"""The rules of the deployed protocol, one by one: what nodes need, and what visitors may do.

Named after the paragraphs of the design: a4 is what a deployed node needs or it
breaks, a5 message relay. What needs no socket runs in memory on a held clock.
"""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from proxyservice.server.service import TICK_SECONDS
from proxyservice.wire import lzw
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import HEADER, FrameDecoder, encode_frame
from tests.attacks.kit import (
    NET,
    application_frame,
    bad_frames,
    closed,
    keepalive,
    proxy_request,
    receive,
    receive_message,
    register,
    sender,
)
from tests.attacks.running import RunningService
from tests.conftest import VECTORS
from tests.leases.harness import store_thread
from tests.ports import unused_port
from tests.server.memory import MemoryRelay, RawVisitor

SERVER_KEY = b"PORTER_TCP_NETKEY"


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


@pytest.fixture
def relay() -> MemoryRelay:
    return MemoryRelay()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One real service for all; each test has nodes of its own."""
    other = ("--listen", f"tcp:{unused_port()}:interface=127.0.0.2")
    with RunningService(tmp_path_factory.mktemp("rules"), *other, lease_ports=30) as running:
        yield running


def visit(relay: MemoryRelay, port: int) -> RawVisitor:
    visitor = relay.visit(port)
    assert visitor is not None
    return visitor


def send(relay: MemoryRelay, visitor: RawVisitor, data: bytes) -> None:
    visitor.transport.write(data)
    relay.pump()


# ----------------------------------------------------- A2: what the main port refuses


def message(**fields: Any) -> bytes:
    """A Keepalive's frame, but for these fields."""
    usual: dict[str, Any] = {"opcode": Opcode.KEEPALIVE, "netID": NET, "sender": sender(1)}
    return encode_frame(NET, pb.Message(**{**usual, **fields}).SerializeToString())


REFUSED = {
    "header network id": HEADER.pack(NET + 1, 0, 0, 1) + b"x",
    "length 0": HEADER.pack(NET, 0, 0, 0),
    "does not parse": encode_frame(NET, b"\xff\xff"),
    "does not inflate": encode_frame(NET, b"\xff\xff", flag=1, algorithm=2),
    "opcode 0": message(opcode=0),
    "no sender": message(sender=None),
    "no net_key": message(sender=pb.ID(address="tcp://h:1")),
    "no address": message(sender=pb.ID(net_key=b"k")),
    "netID": message(netID=NET + 1),
    "signature": message(signature=bytes(64)),
    "connection_id": message(sender=pb.ID(net_key=b"k", address="a", connection_id=bytes(65))),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a2_what_is_refused_closes_without_an_answer(relay: MemoryRelay, why: str) -> None:
    node, other = relay.node(), relay.node(2)
    node.write(REFUSED[why])
    assert node.lost is not None
    assert node.heard() == []
    assert other.lost is None


def test_what_follows_a_refused_frame_is_let_go_at_once(
    relay: MemoryRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when a collector finds it."""
    feed, fed = FrameDecoder.feed, []

    def kept(decoder: FrameDecoder, data: memoryview) -> Any:
        fed.append(feed(decoder, data))
        return fed[-1]

    monkeypatch.setattr(FrameDecoder, "feed", kept)
    node = relay.node()
    node.write(REFUSED["netID"] * 2)
    assert node.lost is not None
    assert fed
    assert all(items.gi_frame is None for items in fed)


@pytest.mark.parametrize(
    "opcode", [1, 9, 10, 11, 12, 13, 14, 17, 18, 19, 31, 64, 999, 1000, 2**32 - 1]
)
def test_a2_anything_else_is_ignored(relay: MemoryRelay, opcode: int) -> None:
    node = relay.node()
    node.lease()
    node.say(opcode, b"whatever")
    assert node.heard() == []
    node.say(Opcode.KEEPALIVE)
    node.take(Opcode.KEEPALIVE_RESPONSE)


@pytest.mark.parametrize("opcode", [*range(33, 64), 32])
def test_a2_without_hello_the_extension_is_not_spoken(relay: MemoryRelay, opcode: int) -> None:
    node = relay.node()
    node.lease()
    node.say(opcode)
    assert node.heard() == []
    node.say(Opcode.KEEPALIVE)
    node.take(Opcode.KEEPALIVE_RESPONSE)


def test_a2_a_signature_of_another_kind_of_key_is_not_looked_at(relay: MemoryRelay) -> None:
    node = relay.node()
    node.sender = pb.ID(net_key=bytes(33), address="tcp://h:1", connection_id=b"c")
    node.write(encode_message(NET, 15, sender=node.sender, signature=b"anything"))
    node.take(Opcode.PROXY_RESPONSE)


def test_a2_keepalive_without_a_lease_is_not_answered(relay: MemoryRelay) -> None:
    node = relay.node()
    node.say(Opcode.KEEPALIVE)
    assert node.heard() == []
    assert node.lost is None


def test_a2_metric_response_repeats_what_came(relay: MemoryRelay) -> None:
    node = relay.node()
    node.lease()
    node.say(Opcode.METRIC_REQUEST, pb.MetricRequest(send_timestamp=-5, raw_data=b"raw"), nonce=77)
    said = node.take(Opcode.METRIC_RESPONSE)
    assert said.payload == pb.MetricResponse(send_timestamp=-5, raw_data=b"raw")
    assert (said.message.request_nonce, said.message.reply_flag) == (77, True)


def test_a2_an_origin_address_is_repeated(relay: MemoryRelay) -> None:
    node = relay.node()
    node.ask("origin.example:80")
    assert node.take(Opcode.PROXY_RESPONSE).payload.origin_address == "origin.example:80"


# --------------------------------------------------------- A4: what a node needs


@pytest.mark.process
def test_a4_1_the_sender_is_the_address_that_was_dialled(service: RunningService) -> None:
    with service.connect() as node:
        node.sendall(proxy_request(1) + keepalive(1))
        said = [receive_message(node) for _ in range(2)]
        assert {one.sender.address for one in said} == {f"tcp://127.0.0.1:{service.port}"}


@pytest.mark.process
def test_a4_1_of_several_addresses_it_is_the_dialled_one(tmp_path: Path) -> None:
    port = unused_port()
    with (
        RunningService(tmp_path, "--listen", rf"tcp:{port}:interface=\:\:") as service,
        ExitStack() as stack,
    ):
        assert service.alive
        for number, host in enumerate(("127.0.0.1", "127.0.0.3", "::1")):
            node = stack.enter_context(socket.create_connection((host, port), 10))
            node.sendall(proxy_request(number))
            said = receive_message(node)
            shown = f"[{host}]" if ":" in host else host
            assert said.sender.address == f"tcp://{shown}:{port}"
            address = pb.ProxyResponse.FromString(said.message).proxy_address
            assert address.rpartition(":")[0] == shown


def test_a4_1_the_operator_may_name_the_address() -> None:
    relay = MemoryRelay(node_address="tcp://203.0.113.7:6008")
    node = relay.node()
    node.ask()
    assert node.take(Opcode.PROXY_RESPONSE).message.sender.address == "tcp://203.0.113.7:6008"


def test_a4_2_the_proxy_address_has_no_scheme(relay: MemoryRelay) -> None:
    node = relay.node()
    node.ask()
    host, _, port = node.take(Opcode.PROXY_RESPONSE).payload.proxy_address.rpartition(":")
    assert host == "127.0.0.1"
    assert 20000 <= int(port) < 20004


@pytest.mark.process
def test_a4_3_the_answer_comes_in_time_and_does_not_wait_for_a_tick(
    service: RunningService,
) -> None:
    took = []
    for _ in range(5):
        begun = time.monotonic()
        with service.connect(timeout=3) as node:
            node.sendall(proxy_request(3))
            assert receive_message(node).opcode == Opcode.PROXY_RESPONSE
        took.append(time.monotonic() - begun)
    assert min(took[1:]) < TICK_SECONDS / 2


def test_a4_4_a_live_connection_never_hears_another_address(relay: MemoryRelay) -> None:
    node = relay.node()
    port = node.lease()
    for origin, wanted in (
        ("", ""),
        ("other:1", ""),
        ("", f":{port + 1}"),
        ("", "127.0.0.1:20003"),
    ):
        assert node.lease(origin, proxy_address=wanted) == port
    node.sender.address = "tcp://198.51.100.1:9"
    assert node.lease() == port


def test_a4_5_a_silent_node_is_not_dropped(relay: MemoryRelay) -> None:
    node = relay.node()
    port = node.lease()
    relay.pass_time(6 * 3600, step=30)
    assert node.lost is None
    send(relay, visit(relay, port), application_frame(b"still there"))
    assert len(node.heard()) == 1


def test_a4_5_of_a_node_that_speaks_part_b_any_byte_is_life(relay: MemoryRelay) -> None:
    node = relay.node()
    node.prove()
    node.lease()
    frame = node.frame(Opcode.KEEPALIVE)
    for at in range(10):
        relay.pass_time(40, step=5)
        node.write(frame[at : at + 1])
    assert node.lost is None
    relay.pass_time(50, step=5)
    assert node.lost is not None


def test_a4_6_a_silent_connection_beside_the_real_one_is_tolerated(relay: MemoryRelay) -> None:
    silent = relay.node()
    relay.pass_time(30)
    real = relay.node()
    assert real.lease()
    relay.pass_time(600)
    assert silent.lost is None, "a node with backoff would dial again, for ever"


def test_a4_6_a_silent_connection_of_nobody_who_is_here_ends(relay: MemoryRelay) -> None:
    silent = relay.node()
    relay.pass_time(59)
    assert silent.lost is None
    relay.pass_time(2)
    assert silent.lost is not None, "60 s without a byte"


def test_a4_7_nothing_follows_from_the_address_or_the_nonce(relay: MemoryRelay) -> None:
    first = relay.node()
    port = first.lease("origin:1")
    again = relay.node()
    again.sender.address = f"tcp://127.0.0.1:{port}"
    assert again.frame(Opcode.KEEPALIVE)  # the repeat's message_nonce is any number
    assert again.lease("origin:1") == port
    assert first.lost is not None


def test_a4_8_the_server_says_who_it_is(relay: MemoryRelay) -> None:
    for number in (1, 2):
        node = relay.node(number)
        node.ask()
        node.say(Opcode.KEEPALIVE)
        node.say(Opcode.METRIC_REQUEST, pb.MetricRequest(), nonce=1)
        said = node.heard()
        assert [one.message.message_nonce for one in said] == [1, 2, 3]
        for one in said:
            assert one.message.sender.net_key == SERVER_KEY
            assert not one.message.sender.id
            assert not one.message.sender.connection_id
            assert one.message.netID == NET
            assert one.raw[4:6] == b"\x00\x01"


def test_a4_9_a_forged_answer_never_reaches_a_node(relay: MemoryRelay) -> None:
    node = relay.node()
    port = node.lease()
    response = pb.ProxyResponse(proxy_address="198.51.100.1:1").SerializeToString()
    for opcode, who in ((9, sender(5)), (3, pb.ID(net_key=SERVER_KEY, address="tcp://h:1"))):
        visitor = visit(relay, port)
        send(relay, visitor, encode_message(NET, opcode, response, sender=who))
        assert visitor.lost is not None
        assert node.heard() == []


def test_a4_10_a_second_request_is_answered_the_same(relay: MemoryRelay) -> None:
    node = relay.node()
    node.ask()
    first = node.take(Opcode.PROXY_RESPONSE)
    node.ask()
    second = node.take(Opcode.PROXY_RESPONSE)
    assert second.payload == first.payload
    assert second.message.message_nonce == 2


def test_a4_10_requests_before_the_grant_are_all_answered(relay: MemoryRelay) -> None:
    node = relay.node()
    node.write(node.frame(15, pb.ProxyRequest()) * 3 + node.frame(Opcode.KEEPALIVE))
    assert [one.opcode for one in node.heard()] == [9, 9, 9, 3]


def test_a4_10_a_new_connection_takes_the_address_and_the_visitors(relay: MemoryRelay) -> None:
    old = relay.node()
    port = old.lease()
    before = visit(relay, port)
    new = relay.node()
    assert new.lease() == port
    assert old.lost is not None
    assert before.lost is not None
    frame = application_frame(b"for the new one")
    send(relay, visit(relay, port), frame)
    assert [one.raw for one in new.heard()] == [frame]


@pytest.mark.process
def test_a4_10_the_late_death_of_the_old_connection_changes_nothing(
    service: RunningService,
) -> None:
    old, port = register(service, 10)
    new, again = register(service, 10)
    with old, new:
        assert again == port
        assert closed(old)
        old.close()
        with service.connect(port) as visitor:
            frame = application_frame(b"still relayed")
            visitor.sendall(frame)
            assert receive(new, len(frame)) == frame


@pytest.mark.parametrize("field", ["net_key", "connection_id"])
def test_a4_10_a_second_identity_closes(relay: MemoryRelay, field: str) -> None:
    node, other = relay.node(), relay.node(2)
    node.lease()
    port = other.lease()
    setattr(node.sender, field, getattr(other.sender, field))
    node.ask()
    assert node.lost is not None
    assert other.lost is None
    visit(relay, port)


def test_a4_11_without_a_port_it_is_silence(relay: MemoryRelay) -> None:
    """The request waits: test_port_queue.py."""
    nodes = [relay.node(number) for number in range(2, 6)]
    ports = {node.lease() for node in nodes}
    assert len(ports) == 4
    late = relay.node(9)
    late.ask()
    relay.pass_time(300)
    assert late.lost is None
    assert late.heard() == []
    assert all(node.lost is None for node in nodes)


@pytest.mark.parametrize(("length", "accepted"), [(0, True), (1, True), (64, True), (65, False)])
def test_a4_identity_is_key_and_connection_id(
    relay: MemoryRelay, length: int, accepted: bool
) -> None:
    node = relay.node()
    node.sender = pb.ID(net_key=b"k", address="tcp://h:1", connection_id=b"c" * length)
    node.ask()
    assert (node.lost is None) is accepted
    assert len(node.heard()) == accepted


def test_a4_identity_the_same_key_with_another_connection_id_is_another_node(
    relay: MemoryRelay,
) -> None:
    first, second = relay.node(), relay.node()
    second.sender.connection_id = b"another"
    assert first.lease() != second.lease()
    assert first.lost is None


def test_a4_identity_a_signature_proves_nothing(relay: MemoryRelay) -> None:
    """Signed and unsigned claims of one pair are one identity, and neither is a proof."""
    signed = bytes.fromhex(VECTORS["tcp_proxy_request_signed"]["hex"])
    unsigned = bytes.fromhex(VECTORS["tcp_proxy_request_unsigned"]["hex"])
    first, second = relay.node(), relay.node()
    first.write(signed)
    second.write(unsigned)
    claimed = second.take(Opcode.PROXY_RESPONSE).payload.proxy_address
    assert first.take(Opcode.PROXY_RESPONSE).payload.proxy_address == claimed
    assert first.lost is not None
    proved = relay.node(bytes(range(32)))  # the key of the signature
    proved.prove()
    assert f"127.0.0.1:{proved.lease()}" != claimed
    assert second.lost is None


# ------------------------------------------------------------- A5: message relay


def good(**fields: Any) -> bytes:
    """A visitor's body, but for these fields."""
    usual: dict[str, Any] = {
        "message": b"hello", "opcode": 1000, "netID": NET, "sender": sender(7),
    }  # fmt: skip
    return pb.Message(**{**usual, **fields}).SerializeToString()


def with_sender(**fields: Any) -> bytes:
    return good(sender=pb.ID(**{"net_key": b"k", "address": "tcp://h:1", **fields}))


CLOSES = {
    "header network id": HEADER.pack(NET + 1, 0, 0, len(good())) + good(),
    "length 0": HEADER.pack(NET, 0, 0, 0),
    "length above the limit": HEADER.pack(NET, 0, 0, (64 << 20) + 1),
    "no Message": encode_frame(NET, b"\xff\xff"),
    **{f"opcode {n}": encode_frame(NET, good(opcode=n)) for n in (0, 9, 15, *range(32, 64))},
    "no sender": encode_frame(NET, good(sender=None)),
    "no net_key": encode_frame(NET, with_sender(net_key=b"")),
    "no address": encode_frame(NET, with_sender(address="")),
    "the server's net_key": encode_frame(NET, with_sender(net_key=SERVER_KEY)),
    "its UDP net_key": encode_frame(NET, with_sender(net_key=b"PORTER_UDP_NETKEY")),
    **{
        f"address {a}": encode_frame(NET, with_sender(address=a))
        for a in (
            "h:1",
            "http://h:1",
            "tcp://h",
            "tcp://h:0",
            "tcp://h:65536",
            "tcp://:1",
            "tcp://h:1/",
        )
    },
    "netID": encode_frame(NET, good(netID=NET + 1)),
    "the last opcode counts": encode_frame(NET, good() + b"\x38\x09"),
    "a merged sender": encode_frame(NET, good() + good(opcode=0, sender=pb.ID(net_key=SERVER_KEY))),
    **{f"plain {n}": encode_frame(NET, good(opcode=9), flag=1, algorithm=n) for n in (0, 1, 5)},
    "no gzip": encode_frame(NET, good(), flag=1, algorithm=2),
    "no zlib": encode_frame(NET, good(), flag=1, algorithm=3),
    "zlib with dictionary": encode_frame(NET, b"\x78\xbb1234", flag=1, algorithm=3),
    "unknown algorithm": encode_frame(NET, good(), flag=1, algorithm=6),
}

RELAYED = {
    **{
        f"opcode {n}": encode_frame(NET, good(opcode=n))
        for n in (1, 2, 3, 10, 11, 14, 17, 31, 64, 1000)
    },
    **{f"flag {n}": encode_frame(NET, good(), flag=n, algorithm=0xEE) for n in (0, 2, 255)},
    **{f"plain {n}": encode_frame(NET, good(), flag=1, algorithm=n) for n in (0, 1, 5)},
    "unknown fields": encode_frame(NET, good() + b"\x7a\x03abc\xc2\x3e\x01x\x5b\x08\x01\x5c"),
    "repeated fields": encode_frame(NET, b"\x38\x09" + good()),
    "signed badly": encode_frame(NET, good(signature=bytes(64))),
    **{
        f"address {a}": encode_frame(NET, with_sender(address=a))
        for a in ("udp://h:1", "kcp://h.example:65535", "quic://[2001:db8::1]:6008")
    },
    "gzip": encode_frame(NET, gzip.compress(good()), flag=1, algorithm=2),
    "zlib": encode_frame(NET, zlib.compress(good()), flag=1, algorithm=3),
    "lzw": encode_frame(NET, lzw.encode(good()), flag=1, algorithm=4),
    "gzip of a forgery": encode_frame(NET, gzip.compress(good(opcode=9)), flag=1, algorithm=2),
    "large": encode_frame(NET, good(message=bytes(300_000))),
}


@pytest.mark.parametrize("why", CLOSES)
def test_a5_closes_this_visitor_and_relays_nothing(relay: MemoryRelay, why: str) -> None:
    node = relay.node()
    port = node.lease()
    bad, other = visit(relay, port), visit(relay, port)
    before = application_frame(b"before")
    send(relay, bad, before + CLOSES[why])
    assert bad.lost is not None
    assert bad.got == b""
    send(relay, other, application_frame(b"other"))
    assert [one.raw for one in node.heard()] == [before, application_frame(b"other")]
    assert other.lost is None
    assert node.lost is None


@pytest.mark.parametrize("what", RELAYED)
def test_a5_relays_byte_for_byte_and_writes_nothing_back(relay: MemoryRelay, what: str) -> None:
    node = relay.node()
    visitor = visit(relay, node.lease())
    send(relay, visitor, RELAYED[what])
    assert node._got == RELAYED[what]
    assert visitor.got == b""
    assert visitor.lost is None


def test_a5_a_frame_starts_only_when_all_of_it_is_there(relay: MemoryRelay) -> None:
    node = relay.node()
    port = node.lease()
    frame = application_frame(bytes(5000))
    slow, quick = visit(relay, port), visit(relay, port)
    send(relay, slow, frame[:-1])
    send(relay, quick, application_frame(b"quick"))
    node.say(Opcode.KEEPALIVE)
    assert [one.opcode for one in node.heard()] == [1000, Opcode.KEEPALIVE_RESPONSE]
    send(relay, slow, frame[-1:])
    assert [one.raw for one in node.heard()] == [frame]
    send(relay, slow, frame[:-1])
    slow.transport.abortConnection()
    relay.pump()
    assert node.heard() == []


def test_a5_a_frame_has_30_s_and_one_for_each_64_kib(relay: MemoryRelay) -> None:
    node = relay.node()
    port = node.lease()
    small, large = visit(relay, port), visit(relay, port)
    send(relay, small, application_frame(b"x")[:20])
    send(relay, large, application_frame(bytes(10 * 65536))[:20])
    relay.pass_time(29.5)
    assert small.lost is None
    relay.pass_time(1.5)
    assert small.lost is not None
    relay.pass_time(8)
    assert large.lost is None
    relay.pass_time(3)
    assert large.lost is not None
    assert node.lost is None


def test_a5_each_frame_has_its_own_time_and_silence_between_them_has_no_end(
    relay: MemoryRelay,
) -> None:
    node = relay.node()
    visitor = visit(relay, node.lease())
    frame = application_frame(b"x")
    for _ in range(5):
        send(relay, visitor, frame[:20])
        relay.pass_time(20)
        send(relay, visitor, frame[20:] + frame[:20])
        relay.pass_time(20)
        send(relay, visitor, frame[20:])
        relay.pass_time(100, step=5)
    assert visitor.lost is None
    assert len(node.heard()) == 10


def test_a5_a_visitor_of_a_node_that_is_gone_is_closed(relay: MemoryRelay) -> None:
    node = relay.node()
    port = node.lease()
    visitor = visit(relay, port)
    node.transport.abortConnection()
    relay.pump()
    assert visitor.lost is not None
    assert relay.visit(port) is None


@pytest.mark.process
def test_a5_frames_of_many_visitors_keep_their_order_and_never_interleave(
    service: RunningService,
) -> None:
    visitors, frames_each = 4, 60
    node, port = register(service, 20)
    sizes = [10, 3000, 70_000, 500_000]

    def frame(visitor: int, at: int) -> bytes:
        size = sizes[(visitor + at) % len(sizes)]
        return application_frame(bytes((visitor, at)) + bytes(size), number=visitor + 1)

    def speak(visitor: int) -> None:
        with service.connect(port) as connection:
            connection.sendall(b"".join(frame(visitor, at) for at in range(frames_each)))

    speakers = [threading.Thread(target=speak, args=(n,)) for n in range(visitors)]
    with node:
        for speaker in speakers:
            speaker.start()
        next_of = [0] * visitors
        for _ in range(visitors * frames_each):
            head = receive(node, 10)
            body = receive(node, int.from_bytes(head[6:], "big"))
            visitor, at = pb.Message.FromString(body).message[:2]
            assert at == next_of[visitor], "out of order, or lost"
            assert head + body == frame(visitor, at)
            next_of[visitor] += 1
        for speaker in speakers:
            speaker.join(10)
    assert next_of == [frames_each] * visitors


@pytest.mark.process
def test_a5_a_node_that_does_not_read_stops_its_visitor_and_nobody_else(
    service: RunningService,
) -> None:
    stuck, port = register(service, 21)
    other, other_port = register(service, 22)
    frame = application_frame(bytes(1 << 16))
    with stuck, other, service.connect(port) as visitor, service.connect(other_port) as quick:
        visitor.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):  # noqa: PT012 - how much was taken counts
            while sent < 64 << 20:
                sent += visitor.send((frame * 2)[sent % len(frame) :][: len(frame)])
        quick.sendall(frame * 20)
        assert receive(other, 20 * len(frame)) == frame * 20
        whole = sent // len(frame)
        assert receive(stuck, whole * len(frame)) == frame * whole, "something was lost"


@pytest.mark.process
@pytest.mark.parametrize("name", bad_frames())
def test_every_bad_vector_closes_its_own_connection_only(
    service: RunningService, name: str
) -> None:
    node, port = register(service, 23)
    with node, service.connect(port) as good_visitor:
        for target in (service.port, port):
            with service.connect(target) as bad:
                bad.sendall(bad_frames()[name])
                assert closed(bad)
        frame = application_frame(b"undisturbed")
        good_visitor.sendall(frame)
        assert receive(node, len(frame)) == frame
        node.sendall(keepalive(23))
        assert receive_message(node).opcode == Opcode.KEEPALIVE_RESPONSE
