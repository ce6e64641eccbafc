"""Threat T24: the wall clock jumps by days under load, and nobody notices."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from proxyservice.wire import proxyservice_pb2 as pb
from tests.attacks.kit import proxy_request, receive_message
from tests.node.processes import EchoServer, visit
from tests.real.conftest import address_of, socket_address
from tests.survive.conftest import Expose, Relays

LIBRARIES = [
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/lib").glob("faketime/libfaketimeMT.so.1"),
]

pytestmark = [
    pytest.mark.process,
    pytest.mark.heavy,
    pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed"),
]

DAY_SECONDS = 86400


class FalseClock:
    """What programs started meanwhile take for the wall clock; the monotonic one stays true."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        self.set(0)
        monkeypatch.setenv("LD_PRELOAD", str(LIBRARIES[0]))
        monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(path))
        monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")

    def set(self, offset_seconds: int) -> None:
        """From the true time; at once, for all of them."""
        beside = self._path.with_suffix(".new")
        beside.write_text(f"{offset_seconds:+d}\n")
        beside.rename(self._path)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FalseClock:
    return FalseClock(tmp_path / "clock", monkeypatch)


def said(visitor: socket.socket, data: bytes) -> bytes:
    visitor.sendall(data)
    got = b""
    while len(got) < len(data):
        got += visitor.recv(65536)
    return got


def test_t24_a_day_forward_and_two_back(
    clock: FalseClock, relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays("--keepalive", "3s", "--hold", "1s", "--lease-ttl", "4s")
    exposing = expose(echo.port, "--via", relay.via)
    address = address_of(exposing, echo.port)
    with (
        socket.create_connection(socket_address(address), timeout=20) as visitor,
        socket.create_connection(("127.0.0.1", relay.port), timeout=20) as node,
    ):
        node.sendall(proxy_request(1))
        granted = pb.ProxyResponse.FromString(receive_message(node).message)
        day = relay.wait_for(r"(\S+)T\S+ \[.*\] started: .*")[1]
        for days in (1, -1, 1):
            clock.set(days * DAY_SECONDS)
            for _ in range(20):
                assert said(visitor, b"x" * 50_000) == b"x" * 50_000
            assert visit(address, b"hello") == b"hello"
        port = granted.proxy_address.rpartition(":")[2]
    relay.wait_for(f"node gone from port {port}, remembered for 4 s")
    clock.set(-DAY_SECONDS)
    with socket.create_connection(("127.0.0.1", relay.port), timeout=20) as node:
        node.sendall(proxy_request(1))
        again = pb.ProxyResponse.FromString(receive_message(node).message)
        assert again == granted, "not expired early by a day's jump"
    clock.set(DAY_SECONDS)
    assert f"expired port {port}" not in relay.stdout
    relay.wait_for(f"expired port {port}")  # after its 4 s, and not after a day
    assert "again" not in exposing.stderr, "no connection was lost"
    exposing.process.send_signal(signal.SIGSTOP)
    relay.wait_for(f"node gone from port {address.rpartition(':')[2]}, .*")  # deadlines fire
    exposing.process.send_signal(signal.SIGCONT)
    assert day not in relay.stdout.splitlines()[-1], "the log lives by the false clock"
