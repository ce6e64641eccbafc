"""One address in 40 spellings, and addresses that peers name: T26."""

from __future__ import annotations

import ast
import select
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path

import pytest

import proxyservice.server
from proxyservice.leases.quota import counted_source
from proxyservice.net.addresses import canonical
from proxyservice.server.claims import Claimed
from proxyservice.server.limits import ServiceLimits
from proxyservice.server.networks import Networks
from proxyservice.server.rules import Rules
from proxyservice.server.settings import ServiceSettings
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from tests.attacks.kit import NET, GoodPair, receive_message
from tests.attacks.running import RunningService
from tests.leases.harness import store_thread
from tests.server.memory import MemoryRelay

IPV4 = [
    "203.0.113.9",
    *(
        f"{zeros}{ffff}:{end}"
        for zeros in ("::", "0:0:0:0:0:", "0000:0000:0000:0000:0000:", "0::", "::0:")
        for ffff, end in (
            ("ffff", "203.0.113.9"),
            ("FFFF", "203.0.113.9"),
            ("ffff", "cb00:7109"),
            ("FFFF", "CB00:7109"),
        )
    ),
]
IPV6 = [
    f"{start}{middle}{end}"
    for start in ("2001:db8:", "2001:DB8:", "2001:0db8:")
    for middle, end in (
        (":", "9"),
        (":", "0009"),
        (":0:", "9"),
        ("0:0:0:0:0:", "9"),
        ("0000:0000:0000:0000:0000:", "0009"),
        (":", "0.0.0.9"),
        (":", "9%eth0"),
    )
]
SPELLINGS = {"203.0.113.9": IPV4, "2001:db8::9": IPV6}


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


def test_they_are_40_and_more() -> None:
    assert len({*IPV4, *IPV6}) >= 40


@pytest.mark.parametrize("address", SPELLINGS)
def test_t26_all_spellings_are_one_address_to_every_rule(address: str) -> None:
    """Denied is denied, allowed alone is allowed alone, trusted is trusted, counted is one."""
    one = ip_network(address)
    denied, allowed = Rules(visitor_deny=Networks([one])), Rules(visitor_allow=Networks([one]))
    settings = ServiceSettings(NET, bytes(32), trusted_sources=(one,))
    for spelling in SPELLINGS[address]:
        host = canonical(spelling)
        assert host == address
        assert not denied.allows_visitor(host)
        assert allowed.allows_visitor(host)
        assert settings.trusts(host)
        assert counted_source(spelling) == counted_source(address)


@pytest.mark.parametrize("address", SPELLINGS)
def test_t26_visitors_of_all_spellings_share_one_limit(address: str) -> None:
    relay = MemoryRelay(limits=ServiceLimits(visitors_per_source=3))
    node = relay.node(1)
    node.prove()
    port = node.lease()
    came = [relay.visit(port, host=canonical(one)) for one in SPELLINGS[address]]
    assert [one is not None for one in came] == [True] * 3 + [False] * (len(came) - 3)


def test_t26_loopback_and_private_networks_in_other_words_are_local_to_claims() -> None:
    for spelling in ("127.0.0.1", "::ffff:127.0.0.1", "::1", "::ffff:10.1.2.3", "fe80::1%eth0"):
        Claimed.LOCAL.check(canonical(spelling))
    for spelling in ("::ffff:8.8.8.8", "::FFFF:808:808"):
        with pytest.raises(Exception, match="prove its key"):
            Claimed.LOCAL.check(canonical(spelling))


@pytest.mark.process
def test_t26_the_service_never_dials_what_a_peer_names(tmp_path: Path) -> None:
    """As sender, as origin, as target of a lookup; by a node and by a visitor."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as trap,
        RunningService(tmp_path) as service,
        GoodPair(service, 1) as pair,
    ):
        named = f"127.0.0.1:{trap.getsockname()[1]}"
        who = pb.ID(net_key=bytes(32), address=f"tcp://{named}", connection_id=b"c" * 32)
        request = pb.ProxyRequest(origin_address=named, proxy_address=named)
        lookup = pb.LookupNodeRequest(target=who)
        said = [
            encode_message(NET, opcode, payload, sender=who)
            for opcode, payload in (
                (Opcode.PROXY_REQUEST, request),
                (Opcode.KEEPALIVE, b""),
                (Opcode.LOOKUP_NODE_REQUEST, lookup),
                (Opcode.PING, b""),
                (1000, b"x"),
            )
        ]
        with service.connect() as node:
            node.sendall(b"".join(said))
            assert receive_message(node).opcode == Opcode.PROXY_RESPONSE
            pair.visitor.sendall(said[-1])
            assert receive_message(pair.node).sender.address == who.address
            pair.relay_one()
            assert select.select([trap], [], [], 0.5) == ([], [], [])


DIALS = {
    *("connect", "connect_ex", "create_connection", "connectTCP", "connectSSL", "connectUNIX"),
    *("clientFromString", "HostnameEndpoint", "TCP4ClientEndpoint", "TCP6ClientEndpoint"),
}


def test_t26_nothing_in_the_server_dials() -> None:
    folder = Path(proxyservice.server.__file__).parent
    found = {
        (path.name, name)
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (name := getattr(node, "attr", getattr(node, "id", None))) in DIALS
    }
    assert found <= {("notify.py", "connect")}, "that is systemd's socket, which the operator names"
