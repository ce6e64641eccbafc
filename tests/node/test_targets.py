"""Targets as people write them; what is wrong is told in one line."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.testing import MemoryReactorClock

from proxyservice.node.targets import Target, parse_target

RIGHT = {
    "8080": Target("8080", hosts=(("127.0.0.1", 8080), ("::1", 8080))),
    "22": Target("22", hosts=(("127.0.0.1", 22), ("::1", 22))),
    "localhost:80": Target("localhost:80", hosts=(("127.0.0.1", 80), ("::1", 80))),
    "10.0.0.1:80": Target("10.0.0.1:80", hosts=(("10.0.0.1", 80),)),
    "[::1]:80": Target("[::1]:80", hosts=(("::1", 80),)),
    "tcp:10.0.0.1:80": Target("tcp:10.0.0.1:80", hosts=(("10.0.0.1", 80),)),
    "db:5432": Target("db:5432", endpoint="tcp:db:5432"),
    "tcp:db:5432": Target("tcp:db:5432", endpoint="tcp:db:5432"),
    "unix:/run/app.sock": Target(
        "unix:/run/app.sock", path="/run/app.sock", endpoint="unix:/run/app.sock"
    ),
    "unix:path=/a b:timeout=3": Target(
        "unix:path=/a b:timeout=3", path="/a b", endpoint="unix:path=/a b:timeout=3"
    ),
    "tcp:host=db:port=1": Target("tcp:host=db:port=1", endpoint="tcp:host=db:port=1"),
    "tls:example.com:443": Target("tls:example.com:443", endpoint="tls:example.com:443"),
}

WRONG = [
    *("", "0", "65536", "99999", "-1", "80 ", "8080/", "http://localhost:8080", "host"),
    *("host:", "host:0", "host:70000", ":80", "::1:80", "[::1]", "[host]:80", "[1.2.3.4:80"),
    *("10.0.0:80", "1.2.3.4.5:80", "10.0.0.300:80", "unix:", "tcp:", "tcp:80", "nonsense:x"),
    *("udp:53", "UDP:53", "unixgram:5", "https:443", "systemd:3", "fd:3", "sctp:5", "proxied:5"),
    *(
        "unix:/",
        f"unix:{__file__}",
        "unix:/" + 110 * "x",
        "unix:/x:timeout=soon",
        "unix:/x:colour=red",
        "a\nb:80",
        "a\x07b:80",
        "\x1b[2J:80",
    ),
]


@pytest.mark.parametrize("text", RIGHT)
def test_right_targets(text: str) -> None:
    assert parse_target(text) == RIGHT[text]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_targets_are_told_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no (target; write a port|port; from 1)") as error:
        parse_target(text)
    assert str(error.value).isprintable()
    assert repr(text) in str(error.value)


def test_a_host_of_any_name_can_be_written() -> None:
    assert parse_target("tcp:udp:53") == Target("tcp:udp:53", endpoint="tcp:udp:53")
    with pytest.raises(ValueError, match="a host that is called udp is tcp:udp:53"):
        parse_target("udp:53")


def test_a_socket_that_is_not_there_yet_is_told(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    target = parse_target(f"unix:{path}")
    assert target.trouble == "there is no such socket yet"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        assert target.trouble == ""
        assert parse_target(f"unix:{path}").trouble == ""
    assert parse_target("8080").trouble == ""


@given(st.text(max_size=30))
def test_whatever_is_typed_there_is_a_target_or_one_line(text: str) -> None:
    try:
        target = parse_target(text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert target.name == text
        assert bool(target.hosts) != bool(target.endpoint)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("db:5432", HostnameEndpoint), ("unix:/run/app.sock", UNIXClientEndpoint)],
)
def test_what_is_no_ip_address_is_reached_by_an_endpoint(text: str, kind: Any) -> None:
    assert isinstance(parse_target(text).client_endpoint(MemoryReactorClock()), kind)
