"""A restart is a pause: what is under way arrives byte for byte, and the address is there again."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.node.processes import EchoServer, visit, wait_until
from tests.real.conftest import address_of, socket_address
from tests.survive.conftest import Expose, Relays, scaled

pytestmark = [pytest.mark.process, pytest.mark.heavy]

TRANSFER_BYTES = scaled(256, 24) << 20
"""A hundred windows and more."""

PIECE_BYTES = 1 << 18


def echoed(visitor: socket.socket, data: bytes) -> bytes:
    """Say it all, in pieces that fit into what lies between the two ends; what comes back."""
    answer = bytearray()
    for start in range(0, len(data), PIECE_BYTES):
        visitor.sendall(data[start : start + PIECE_BYTES])
        while len(answer) < min(start + PIECE_BYTES, len(data)):
            more = visitor.recv(PIECE_BYTES)
            assert more, "it ended early"
            answer += more
    visitor.shutdown(socket.SHUT_WR)
    while more := visitor.recv(PIECE_BYTES):
        answer += more
    return bytes(answer)


def is_served(address: str) -> bool:
    try:
        return visit(address, b"hello") == b"hello"
    except OSError:
        return False


def test_a_long_transfer_goes_on_through_the_stop_and_visitors_come_again_after_it(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays("--drain", "1h")
    exposing = expose(echo.port, "--via", relay.via)
    address = address_of(exposing, echo.port)
    data = os.urandom(TRANSFER_BYTES)
    with socket.create_connection(socket_address(address), timeout=30) as visitor:
        visitor.sendall(b"!")
        assert visitor.recv(1) == b"!"
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_for("draining: 1 visitors .*")
        answer = echoed(visitor, data)
    assert answer == data, f"{len(answer)} of {len(data)} bytes, or other ones"
    assert relay.ended() == 0
    relay.again()
    wait_until(lambda: is_served(address))
    assert exposing.stdout.count("exposed ") == 1, "the address is what it was"
    assert relay.end(signal.SIGTERM) == 0
