"""One spelling for each address, and which of them mean something outside."""

from __future__ import annotations

import pytest

from proxyservice.net.addresses import canonical, format_host_port, is_private


@pytest.mark.parametrize(
    ("spelling", "one"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:7f00:1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("FE80::1%eth0", "fe80::1"),
        ("Relay.Example", "relay.example"),
    ],
)
def test_an_address_has_one_spelling(spelling: str, one: str) -> None:
    assert canonical(spelling) == one


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("10.1.2.3", True),
        ("172.17.0.2", True),
        ("127.0.0.1", True),
        ("fd00::1", True),
        ("1.1.1.1", False),
        ("2606:4700::1", False),
        ("relay.example", False),
    ],
)
def test_private_addresses_mean_nothing_outside(host: str, private: bool) -> None:
    assert is_private(host) is private


def test_ipv6_goes_into_brackets() -> None:
    assert format_host_port("::1", 6008) == "[::1]:6008"
    assert format_host_port("127.0.0.1", 6008) == "127.0.0.1:6008"
