"""Threat T29: a stop loses no work, is over in time, and at once when there is none."""

from __future__ import annotations

import fcntl
import signal
import socket
import struct
import termios
import threading
import time

import pytest

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.node.processes import EchoServer, visit, wait_until
from tests.real.conftest import address_of, socket_address
from tests.survive.conftest import Expose, Relays, scaled

pytestmark = [pytest.mark.process, pytest.mark.heavy]

TRANSFERS = scaled(200, 40)
HALF = b"h" * 100_000
DRAIN_SECONDS = 30
SHORT_DRAIN_SECONDS = scaled(DRAIN_SECONDS, 2)
IN_TIME_SECONDS = scaled(1, 10)
"""After the end of the drain; by default other tests may run beside it."""


class Transfer(threading.Thread):
    """Says a half, waits until it is told to go on, says the other; the echo must be whole."""

    def __init__(self, address: str, go_on: threading.Event) -> None:
        super().__init__(daemon=True)
        self._visitor = socket.create_connection(socket_address(address), timeout=30)
        self._go_on = go_on
        self.half_way = False
        self.problem = "it did not end"
        self.start()

    def run(self) -> None:
        try:
            self.problem = self._transfer()
        except OSError as error:
            self.problem = f"{type(error).__name__} after {self._got} bytes"

    def _transfer(self) -> str:
        self._got = 0
        with self._visitor as visitor:
            for _ in range(2):
                sending = threading.Thread(target=visitor.sendall, args=(HALF,))
                sending.start()
                self._receive(len(HALF))
                sending.join()
                self.half_way = True
                self._go_on.wait(30)
            visitor.shutdown(socket.SHUT_WR)
            rest = visitor.recv(1)
        return "more than was said" if rest else ""

    def _receive(self, n_bytes: int) -> None:
        until = self._got + n_bytes
        while self._got < until:
            data = self._visitor.recv(65536)
            if not data:
                raise ConnectionError("an early end that looks orderly")
            self._got += len(data)


def test_t29_transfers_finish_and_the_service_ends_as_soon_as_they_have(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays("--drain", f"{DRAIN_SECONDS}s")
    exposing = expose(echo.port, "--via", relay.via, "--json")
    address = exposing.wait_for('.*"event": "exposed".*"address": "([^"]*)".*')[1]
    go_on = threading.Event()
    transfers = [Transfer(address, go_on) for _ in range(TRANSFERS)]
    wait_until(lambda: all(one.half_way for one in transfers), what=transfers)
    relay.process.send_signal(signal.SIGTERM)
    relay.wait_for(f"draining: {TRANSFERS} visitors of 1 nodes may finish, for 30 s")
    with pytest.raises(ConnectionRefusedError):
        visit(address, b"too late")
    exposing.wait_for('.*"event": "disconnected".*about to stop.*')
    assert relay.process.poll() is None
    go_on.set()
    for one in transfers:
        one.join(30)
    assert [one.problem for one in transfers if one.problem] == []
    assert relay.ended() == 0
    relay.wait_for("stopped; every lease is remembered")
    relay.again()
    exposing.wait_for(f'.*"event": "resumed".*"{address}".*')
    assert visit(address, b"again") == b"again"


def test_t29_what_does_not_finish_is_cut_in_time_and_seen_to_be(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    drain = SHORT_DRAIN_SECONDS
    relay = relays("--drain", f"{drain}s")
    address = address_of(expose(echo.port, "--via", relay.via), echo.port)
    with socket.create_connection(socket_address(address), timeout=drain + 15) as visitor:
        visitor.sendall(b"x")
        assert visitor.recv(1) == b"x"
        began = time.monotonic()
        assert relay.end(signal.SIGTERM, drain + IN_TIME_SECONDS + 15) == 0
        seconds = time.monotonic() - began
        print(f"ended {seconds:.2f} s after the signal, with a drain of {drain} s")
        assert drain <= seconds < drain + IN_TIME_SECONDS
        with pytest.raises(ConnectionResetError):
            visitor.recv(1)
    relay.wait_for("1 visitors were not finished after .*")


def test_t29_a_second_signal_ends_it_at_once(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays("--drain", "1h")
    exposing = expose(echo.port, "--via", relay.via)
    address = address_of(exposing, echo.port)
    with socket.create_connection(socket_address(address), timeout=10) as visitor:
        visitor.sendall(b"x")
        assert visitor.recv(1) == b"x"
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_for("draining: 1 visitors .*")
        assert relay.end(signal.SIGTERM) == -signal.SIGTERM
    relay.again()  # and nothing was lost by it
    exposing.wait_for(f"{echo.port} is reached at {address} again", stderr=True)
    assert visit(address, b"again") == b"again"


def test_t29_without_visitors_it_ends_at_once(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays("--drain", "1h")
    address = address_of(expose(echo.port, "--via", relay.via), echo.port)
    assert visit(address, b"hello") == b"hello"
    assert relay.end(signal.SIGTERM) == 0


def test_t29_a_frame_that_is_under_way_arrives_whole(relays: Relays) -> None:
    relay = relays("--drain", "1h")
    sender = pb.ID(net_key=b"k" * 32, address="tcp://127.0.0.1:9", connection_id=b"c" * 32)
    frame = encode_message(DEFAULT_NETWORK_ID, 1000, b"x" * 500_000, sender=sender)
    with socket.create_connection(("127.0.0.1", relay.port), timeout=20) as node:
        node.sendall(
            encode_message(
                DEFAULT_NETWORK_ID, Opcode.PROXY_REQUEST, pb.ProxyRequest(), sender=sender
            )
        )
        stream = node.makefile("rb")
        (size,) = struct.unpack(">6xI", stream.read(10))
        answer = pb.ProxyResponse.FromString(pb.Message.FromString(stream.read(size)).message)
        with socket.create_connection(socket_address(answer.proxy_address), timeout=20) as visitor:
            visitor.sendall(frame[:300_000])
            wait_until(lambda: _unread_bytes(visitor) == 0)
            relay.process.send_signal(signal.SIGTERM)
            relay.wait_for("draining: 1 visitors .*")
            visitor.sendall(frame[300_000:])
            assert stream.read() == frame, "and then the end"
            assert visitor.recv(1) == b""
    assert relay.ended() == 0


def _unread_bytes(sender: socket.socket) -> int:
    """What the peer's kernel has not acknowledged (SIOCOUTQ)."""
    raw = fcntl.ioctl(sender.fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", raw)[0])
