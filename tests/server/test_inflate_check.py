"""`--inflate-check`: what a compressed body hides, looked at or not."""

from __future__ import annotations

import socket

import pytest

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.server.test_service import Relay, closed, lease, raw, receive, relay

pytestmark = pytest.mark.process
__all__ = ["relay"]

GZIP = 2
HIDDEN = encode_message(
    DEFAULT_NETWORK_ID,
    Opcode.PROXY_RESPONSE,
    pb.ProxyResponse(proxy_address="192.0.2.1:1"),
    sender=pb.ID(net_key=bytes(range(32)), address="tcp://192.0.2.1:1"),
    algorithm=GZIP,
    compressed=True,
)
"""What crashes deployed nodes, in a body that nobody sees through from outside."""


def test_off_it_passes_and_on_it_ends_the_visitor_alone(relay: Relay) -> None:
    node, port = lease(relay, raw("tcp_proxy_request_unsigned"))
    with node, socket.create_connection(("127.0.0.1", port), timeout=10) as visitor:
        visitor.sendall(HIDDEN)
        assert receive(node, len(HIDDEN)) == HIDDEN
    relay.stop()
    relay.options += ["--inflate-check", "64KiB"]
    relay.start()
    node, port = lease(relay, raw("tcp_proxy_request_unsigned"))
    good = raw("tcp_app_1000_gzip_go")
    with node, socket.create_connection(("127.0.0.1", port), timeout=10) as visitor:
        visitor.sendall(HIDDEN)
        assert closed(visitor)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as other:
            other.sendall(good)
            assert receive(node, len(good)) == good
