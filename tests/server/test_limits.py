"""`--limit`: how it is read, and that what it says is enforced."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxyservice.leases.lease import LeaseQuota
from proxyservice.net.keepalive import configure_main_connection
from proxyservice.server.limit_options import Limits, names
from proxyservice.server.limits import ServiceLimits
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from proxyservice.wire.framing import HEADER_BYTES, encode_frame
from tests.attacks.kit import NET, proxy_request, receive_message
from tests.attacks.running import RunningService
from tests.leases.harness import store_thread
from tests.node.processes import SCRIPTS, Program
from tests.server.memory import MemoryRelay, RawNode

FAR = "203.0.113.7"


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("bytes-before-identity=8KiB", "bytes_before_identity", 8192),
        ("seconds-to-identity=1m", "seconds_to_identity", 60.0),
        ("visitors-per-lease=7", "visitors_per_lease", 7),
        ("visitor-rate-per-source=0.5", "visitor_rate_per_source", 0.5),
        ("visitor-rate-per-lease=0", "visitor_rate_per_lease", 0.0),
        ("frame-bytes-per-second=1KB", "frame_bytes_per_second", 1000),
        ("lease-bytes-per-second=1MiB", "lease_bytes_per_second", 1 << 20),
        ("lease-bytes-per-second=0", "lease_bytes_per_second", 0),
    ],
)
def test_a_value_is_read_by_its_kind(text: str, field: str, value: object) -> None:
    read = Limits.parse([text], ServiceLimits())
    assert getattr(read.service, field) == value
    assert read.quota == LeaseQuota()


def test_the_last_of_a_name_counts_and_quotas_have_names_too() -> None:
    read = Limits.parse(["leases-per-key=3", "leases-per-key=4"], ServiceLimits())
    assert read.quota == LeaseQuota(per_key=4)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("value", ["", "x", "-1", "1 2", "1e9", "999999999999999999", "nan", "0x1"])
def test_what_is_no_value_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name) as error:
        Limits.parse([f"{name}={value}"], ServiceLimits())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", set(names()) - {"visitor-rate-per-lease", "lease-bytes-per-second"}
)
def test_no_limit_can_be_0(name: str) -> None:
    for zero in ("0", "0s", "0.0"):
        with pytest.raises(ValueError, match=name):
            Limits.parse([f"{name}={zero}"], ServiceLimits())


@pytest.mark.parametrize("text", ["leases", "visitors=3", "max-frame-bytes=1", "=3", ""])
def test_an_unknown_name_is_answered_with_those_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="names are answers-high-bytes, "):
        Limits.parse([text], ServiceLimits())


# ------------------------------------------------------------------------ what they do


def proved(relay: MemoryRelay, seed: int) -> RawNode:
    node = relay.node(seed, source=FAR)
    node.prove()
    return node


def test_visitors_of_one_address_at_all_leases_together() -> None:
    relay = MemoryRelay(limits=ServiceLimits(visitors_per_source=3))
    ports = [proved(relay, seed).lease() for seed in (1, 2)]
    here = [relay.visit(ports[number % 2]) for number in range(3)]
    assert all(here)
    assert relay.visit(ports[0]) is None
    assert relay.visit(ports[0], host="192.0.2.10") is not None
    assert here[0] is not None
    here[0].transport.abortConnection()
    relay.pump()
    assert relay.visit(ports[1]) is not None
    assert relay.visit(ports[1]) is None


def test_addresses_of_one_ipv6_56_are_one_source_and_trusted_ones_none() -> None:
    relay = MemoryRelay(limits=ServiceLimits(visitors_per_source=2))
    port = proved(relay, 1).lease()
    assert relay.visit(port, host="2001:db8:0:1::1")
    assert relay.visit(port, host="2001:db8:0:2::1")
    assert relay.visit(port, host="2001:db8:0:3::1") is None
    assert relay.visit(port, host="2001:db8:1::1")
    assert all(relay.visit(port, host="127.0.0.1") for _ in range(5))


def test_new_visitors_of_one_address_a_second() -> None:
    limits = ServiceLimits(visitor_rate_per_source=2.0, visitor_burst_per_source=4.0)
    relay = MemoryRelay(limits=limits)
    port = proved(relay, 1).lease()
    came = [relay.visit(port) for _ in range(6)]
    assert [one is not None for one in came] == [True] * 4 + [False] * 2
    relay.clock.advance(0.5)
    assert relay.visit(port) is not None
    assert relay.visit(port) is None


def test_new_visitors_of_one_lease_a_second() -> None:
    relay = MemoryRelay(limits=ServiceLimits(visitor_rate_per_lease=3.0))
    port, other = proved(relay, 1).lease(), proved(relay, 2).lease()
    came = [relay.visit(port, host=f"192.0.2.{number}") for number in range(5)]
    assert [one is not None for one in came] == [True] * 3 + [False] * 2
    assert relay.visit(other) is not None


def test_nothing_of_a_visitor_is_left_when_it_is_gone() -> None:
    relay = MemoryRelay()
    port = proved(relay, 1).lease()
    for _ in range(3):
        visitors = [relay.visit(port) for _ in range(20)]
        for visitor in visitors:
            assert visitor is not None
            visitor.transport.abortConnection()
        relay.pump()
    gate = relay.factory.gate
    assert not gate._open_of
    assert not gate._hosts
    assert len(gate._arrivals) <= 2


def test_visitors_that_a_lost_node_takes_with_it_are_counted_off() -> None:
    relay = MemoryRelay()
    node = proved(relay, 1)
    port = node.lease()
    assert all(relay.visit(port) for _ in range(20))
    node.transport.abortConnection()
    relay.pump()
    assert not relay.factory.gate._open_of


def test_leases_of_one_source_and_what_the_node_is_told() -> None:
    quota = LeaseQuota(per_key=5, per_source=2)
    relay = MemoryRelay(quota=quota, limits=ServiceLimits(visitors_per_lease=9))
    node = relay.node(1, source=FAR)
    welcome = node.prove().payload
    assert (welcome.max_leases, welcome.max_visitors) == (2, 9)
    node.lease("a")
    node.lease("b")
    node.ask("c", nonce=3)
    assert node.refused() == (pb.REFUSAL_QUOTA, 3)


def test_a_node_is_told_what_concerns_it() -> None:
    limits = ServiceLimits(
        streams_per_connection=5,
        visitors_per_lease=9,
        visitor_rate_per_lease=2.5,
        lease_bytes_per_second=70_000,
        max_frame_bytes=1 << 20,
    )
    told = MemoryRelay(limits=limits).node(1, source=FAR)
    welcome = told.prove().payload
    assert (welcome.max_leases, welcome.max_streams, welcome.max_visitors) == (8, 5, 9)
    assert (welcome.visitors_per_second, welcome.lease_bytes_per_second) == (2.5, 70_000)
    assert welcome.max_frame_bytes == 1 << 20
    unlimited = MemoryRelay().node(1, source=FAR).prove
    welcome = unlimited().payload
    assert (welcome.visitors_per_second, welcome.lease_bytes_per_second) == (0, 0)


def test_streams_of_one_connection_at_all_its_leases_together() -> None:
    relay = MemoryRelay(limits=ServiceLimits(streams_per_connection=3))
    node = proved(relay, 1)
    ports = [node.lease("a"), node.lease("b")]
    here = [relay.visit(ports[number % 2]) for number in range(3)]
    assert all(here)
    assert relay.visit(ports[0]) is None
    assert relay.visit(proved(relay, 2).lease()) is not None, "another node has its own"
    assert here[0] is not None
    here[0].transport.abortConnection()
    relay.pump()
    assert relay.visit(ports[1]) is not None
    assert node.lost is None


def test_more_streams_than_nodes_take_are_refused() -> None:
    with pytest.raises(ValueError, match="streams-per-connection: 1024 at most"):
        Limits.parse(["streams-per-connection=1025"], ServiceLimits())


def test_frames_of_a_node_as_they_come_and_inflated() -> None:
    limits = ServiceLimits(control_frame_bytes=2000, inflated_frame_bytes=3000)
    relay = MemoryRelay(limits=limits)
    node, wordy, bomber = (proved(relay, seed) for seed in (1, 2, 3))
    node.say(Opcode.METRIC_REQUEST, pb.MetricRequest(raw_data=bytes(1700)))
    assert node.take(Opcode.METRIC_RESPONSE)
    wordy.say(Opcode.METRIC_REQUEST, pb.MetricRequest(raw_data=bytes(2000)))
    assert wordy.refused() == (pb.REFUSAL_MALFORMED, 0)
    metric = bomber.frame(Opcode.METRIC_REQUEST, pb.MetricRequest(raw_data=bytes(4000)))
    bomber.write(encode_frame(NET, zlib.compress(metric[HEADER_BYTES:]), flag=1, algorithm=3))
    assert bomber.refused() == (pb.REFUSAL_MALFORMED, 0)


def test_silence_counts_in_keepalives() -> None:
    relay = MemoryRelay(limits=ServiceLimits(silent_keepalives=2), keepalive_seconds=10.0)
    node = proved(relay, 1)
    relay.pass_time(19)
    assert node.lost is None
    relay.pass_time(2)
    assert node.lost is not None


def test_takeovers_as_they_are_limited() -> None:
    relay = MemoryRelay(limits=ServiceLimits(takeover_burst=1, takeover_seconds=1.0))
    for source in ("203.0.113.1", "203.0.113.2"):
        node = relay.node(1, source=source)
        node.prove()
        assert node.lease()
    late = relay.node(1, source="203.0.113.3")
    late.prove()
    late.ask("")
    assert late.heard() == []
    relay.pass_time(1.5)
    assert late.take(Opcode.PROXY_RESPONSE)


def test_when_tcp_gives_a_main_connection_up() -> None:
    class Transport:
        def __init__(self, handle: socket.socket) -> None:
            self.getHandle = lambda: handle
            self.setTcpNoDelay = self.setTcpKeepAlive = lambda on: None

    with closing(socket.socket()) as handle:
        configure_main_connection(Transport(handle), 7.0, 12.5)
        values = [
            handle.getsockopt(socket.IPPROTO_TCP, getattr(socket, option))
            for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        ]
    assert values == [7, 5, 3, 12_500]


@pytest.mark.process
def test_the_options(tmp_path: Path) -> None:
    options = ("--trusted-sources", "none", "--limit", "leases-per-source=1")
    with (
        RunningService(tmp_path, *options, "--limit", "visitors-per-lease=1") as service,
        service.connect() as node,
        service.connect() as other,
    ):
        node.sendall(proxy_request(1))
        response = pb.ProxyResponse.FromString(receive_message(node).message)
        other.sendall(proxy_request(2))
        assert other.recv(1) == b""
        port = int(response.proxy_address.rpartition(":")[2])
        with (
            service.connect(port),
            service.connect(port) as second,
            pytest.raises(ConnectionResetError),
        ):
            second.recv(1)


@pytest.mark.process
def test_a_wrong_limit_ends_the_start_in_one_line(tmp_path: Path) -> None:
    words = ("--state-dir", "state", "--limit", "visitors=3")
    program = Program(tmp_path, SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice", *words)
    assert program.ended() in (1, 2)
    assert len(program.stderr.splitlines()) == 1, program.stderr
