"""`--public-host`: a host that visitors dial, and how it stands before a port."""

from __future__ import annotations

import pytest

from proxyservice.net.addresses import format_host_port
from proxyservice.tap import _public_host

RIGHT = {
    "relay.example": "relay.example:1",
    "relay.example.": "relay.example.:1",
    "my_host": "my_host:1",
    "203.0.113.7": "203.0.113.7:1",
    "2001:db8::7": "[2001:db8::7]:1",
    "[2001:db8::7]": "[2001:db8::7]:1",
    "2001:DB8:0::7": "[2001:db8::7]:1",
    "::1": "[::1]:1",
}

WRONG = [
    *("host:80", "203.0.113.7:80", "[2001:db8::7]:80", "[host]", "[203.0.113.7]", "[", "[]"),
    *(
        "10.0.0",
        "300.1.1.1",
        "0.0.0.0",
        "::",
        "1",
        ".",
        "a..b",
        "-a",
        "a-",
        "a b",
        "a/b",
        "http://a",
    ),
    *("2001:db8::7::1", "2001:db8::7:80000", "user@host", "a" * 64, "größe", "a\nb"),
]


@pytest.mark.parametrize("text", RIGHT)
def test_it_stands_before_the_port_as_people_write_it(text: str) -> None:
    assert format_host_port(_public_host(text), 1) == RIGHT[text]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no host; a name or an IP address, without port"):
        _public_host(text)
