"""A start with a full store: ready in time, and every address where it was."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from proxyservice.leases.lease import Identity, Owner
from proxyservice.leases.store import LeaseStore, sqlite_url
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.attacks.kit import proxy_request, receive_message, sender
from tests.leases.harness import Run, store_thread
from tests.node.processes import SCRIPTS, Program
from tests.survive.conftest import FULL, scaled, unused_port

pytestmark = [pytest.mark.process, pytest.mark.heavy]

LEASES = scaled(10_000, 1_000)
PORTS = range(20_000, 20_000 + LEASES)
READY_SECONDS = 2.0


def owner(number: int) -> Owner:
    said = sender(number)
    return Owner(Identity(False, said.net_key, said.connection_id), "")


def fill(store: Path) -> None:
    """The store of a service that had so many leases and ended."""
    with store_thread():
        run = Run(LeaseStore(sqlite_url(store), DEFAULT_NETWORK_ID), PORTS, wall=time.time())
        for number in range(LEASES):
            run.lease(owner(number))
        run.stop()


def test_it_is_ready_in_two_seconds_with_all_leases(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    fill(state / "leases.sqlite")
    port = unused_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(str(tmp_path / "notify"))
        hears.settimeout(15)
        began = time.monotonic()
        relay = Program(
            tmp_path / "relay",
            *(SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice", "--state-dir", state),
            *("--listen", f"tcp:{port}:interface=127.0.0.1"),
            *("--ports", f"{PORTS.start}-{PORTS.stop - 1}", "--public-host", "127.0.0.1"),
            NOTIFY_SOCKET=hears.getsockname(),
        )
        try:
            assert hears.recv(100) == b"READY=1"
            seconds = time.monotonic() - began
            print(f"ready after {seconds:.2f} s with {LEASES} leases")
            for number in (0, LEASES // 2, LEASES - 1):
                with socket.create_connection(("127.0.0.1", port), timeout=10) as node:
                    node.sendall(proxy_request(number))
                    said = pb.ProxyResponse.FromString(receive_message(node).message)
                    assert said.proxy_address == f"127.0.0.1:{PORTS[number]}"
            assert relay.end() == 0
        finally:
            relay.kill()
    if FULL:  # by default other tests may run beside it
        assert seconds < READY_SECONDS
