"""The usual mistakes of people who name a relay: how they are written, and what answers there."""

from __future__ import annotations

import pytest

from proxyservice.errors import StartError
from proxyservice.node.dial import parse_server
from proxyservice.node.mistakes import closed_silently, likely_meant, no_tls_there, what_answers

MEANT = {
    "https://relay.example": "tls:relay.example",
    "https://relay.example:6008/path?x#y": "tls:relay.example:6008",
    "HTTPS://relay.example/": "tls:relay.example",
    "http://relay.example:6008": "relay.example:6008",
    "tcp://relay.example:6008": "relay.example:6008",
    "tls://relay.example": "tls:relay.example",
    "tls://me@relay.example:7/": "tls:relay.example:7",
    "ssl:relay.example:6008": "tls:relay.example:6008",
    "TLS:relay.example": "tls:relay.example",
    "tls:https://relay.example": "tls:relay.example",
    "//relay.example": "relay.example",
    "me@relay.example": "relay.example",
    "me:secret@relay.example:7": "relay.example:7",
    "ssh://me@relay.example:22": "relay.example:22",
    "relay.example/": "relay.example",
    "relay.example:6008/": "relay.example:6008",
    " relay.example ": "relay.example",
    "'relay.example'": "relay.example",
    "::1": "[::1]",
    "2001:db8::1": "[2001:db8::1]",
    "fe80::1%eth0": "[fe80::1%eth0]",
    "http://192.0.2.1:6008": "192.0.2.1:6008",
    "tcp://192.0.2.1:6008": "192.0.2.1:6008",
    "https://192.0.2.1": "tls:192.0.2.1",
    "TLS:192.0.2.1:6008": "tls:192.0.2.1:6008",
    "ssl:192.0.2.1:6008": "tls:192.0.2.1:6008",
    "https://[2001:db8::1]:7/": "tls:[2001:db8::1]:7",
}


@pytest.mark.parametrize("text", MEANT)
def test_what_was_meant_is_named(text: str) -> None:
    assert likely_meant(text) == MEANT[text]
    with pytest.raises(StartError) as error:
        parse_server(text, None)
    assert str(error.value).endswith(f"; write {MEANT[text]}")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", ["", "a b", "a:b", "a:1:2", "a:0", "a:99999", "[::1", "@", "://"])
def test_what_nobody_understands_has_no_suggestion(text: str) -> None:
    with pytest.raises(StartError) as error:
        parse_server(text, None)
    assert "; write" not in str(error.value)


@pytest.mark.parametrize("text", ["relay:0", "relay:99999", "relay:x", "relay:", "[::1]:99999"])
def test_a_wrong_port_is_told_apart(text: str) -> None:
    with pytest.raises(StartError, match=r"a port is a number from 1 to 65535$"):
        parse_server(text, None)


@pytest.mark.parametrize("server", ["relay", "r:7", "[::1]:7", "[fe80::1%eth0]:7", "[fe80::1%2]"])
def test_what_is_right_is_left_alone(server: str) -> None:
    assert likely_meant(server) == server
    assert parse_server(server, None).name.startswith(server.removesuffix(":7"))


ANSWERS = [
    (b"HTTP/1.1 400 Bad Request\r\n", "an HTTP server answers there"),
    (b"<!doctype html><html>", "an HTTP server answers there"),
    (b"<HTML><head>", "an HTTP server answers there"),
    (b"SSH-2.0-OpenSSH_9.2p1\r\n", "an SSH server answers there"),
    (b"220 mail.example ESMTP\r\n", "a mail or FTP server answers there"),
    (b"-ERR unknown command\r\n", "a Redis server answers there"),
    (b"hello, who is there?\n", "it says 'hello, who is there?'"),
    (b"\x15\x03\x01\x00\x02\x02\x46", "that port speaks TLS; write tls:relay:7"),
    (b"\x16\x03\x03\x00\x7a", "that port speaks TLS; write tls:relay:7"),
]


@pytest.mark.parametrize(("first", "told"), ANSWERS)
def test_what_answers_is_named(first: bytes, told: str) -> None:
    what = what_answers(first, "relay:7")
    assert told in what
    assert what.isprintable()


@pytest.mark.parametrize(
    "first",
    [b"", b"\x5d\x3a\xe6\x5a\x00\x01\x00\x00\x00\x10", b"\x00\x00", b"ab\x00\x01", b"\x15\x04"],
)
def test_what_may_be_a_relay_is_not_named(first: bytes) -> None:
    assert what_answers(first, "relay:7") == ""


def test_tls_is_no_mistake_where_it_was_asked_for() -> None:
    assert what_answers(b"\x16\x03\x03\x00\x7a", "tls:relay:7") == ""
    assert no_tls_there("tls:relay:7").endswith(" write relay:7")
    assert closed_silently("tls:relay:7", in_handshake=True).endswith(" write relay:7")
    assert closed_silently("relay:7", in_handshake=False).endswith(" write tls:relay:7")
    assert "tls:tls:" not in closed_silently("tls:relay:7", in_handshake=False)
