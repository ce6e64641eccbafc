"""IPv6 addresses with a zone (`fe80::1%eth0`): which interface leads there is never lost."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from proxyservice.net.addresses import canonical, format_host_port, is_private
from proxyservice.net.connect import Dial, DialFailure, socket_address
from proxyservice.node.dial import is_proxy_address, peer_endpoint, split_host_port
from proxyservice.node.exposure import read_settings
from proxyservice.node.targets import parse_target

INTERFACES = socket.if_nameindex()
NUMBER, NAME = INTERFACES[0]
HAS_IPV6 = socket.has_ipv6


@pytest.mark.parametrize("zone", [NAME, str(NUMBER)])
def test_a_zone_is_the_scope_of_the_socket(zone: str) -> None:
    assert socket_address(f"fe80::1%{zone}", 7) == ("fe80::1", 7, 0, NUMBER)


def test_without_a_zone_nothing_is_asked() -> None:
    assert socket_address("fe80::1", 7) == ("fe80::1", 7, 0, 0)
    assert socket_address("10.0.0.1", 7) == ("10.0.0.1", 7)


def test_a_zone_that_is_none_is_told() -> None:
    failures: list[DialFailure] = []

    def build() -> Protocol:
        raise AssertionError("nobody is there")

    Dial(Clock(), ("fe80::1%nowhere", 7), build, failures.append).start()
    assert [failure.reason for failure in failures] == ["there is no interface 'nowhere'"]


@pytest.mark.parametrize("text", ["[fe80::1%eth0]:7", "[fe80::1%2]:7", "[fe80::1%wlp0s20f3]:7"])
def test_where_addresses_are_written_a_zone_may_be(text: str) -> None:
    host, port = split_host_port(text)
    assert format_host_port(host, port) == text
    assert parse_target(text).hosts == ((host, port),)
    assert read_settings(["80"], [text], state_dir="/state").servers == (text,)
    assert is_proxy_address(text)
    lookups: Any = None
    assert peer_endpoint(text, Clock(), lookups) is not None


@pytest.mark.parametrize("text", ["[fe80::1%]:7", "[fe80::1%a b]:7", "[fe80::1%a%b]:7", "a%b:7"])
def test_what_is_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no HOST:PORT"):
        split_host_port(text)


def test_limits_and_rules_know_an_address_without_its_zone() -> None:
    assert canonical("fe80::1%eth0") == canonical("FE80:0::1%7") == "fe80::1"
    assert is_private("fe80::1%eth0")


@pytest.mark.skipif(not HAS_IPV6, reason="there is no IPv6")
def test_a_certificate_is_for_an_address_whatever_the_interface() -> None:
    from proxyservice.node.tls import TLSTrust

    creator = TLSTrust().creator("fe80::1%eth0")
    assert creator._check.args == ("fe80::1",)
