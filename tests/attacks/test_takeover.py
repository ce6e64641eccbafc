"""One key from many places: T4 on real sockets; the rules are in tests/server/test_takeover.py."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.framing import encode_frame
from tests.attacks.kit import (
    NET,
    GoodPair,
    ProvedNode,
    ends_unread,
    proxy_request,
    receive_message,
    register,
)
from tests.attacks.running import RunningService, figure, scaled
from tests.node.processes import wait_until

MIB = 1 << 20
AT_ONCE = 100
"""Before it is looked whether all of them but the last two have been closed."""


@pytest.mark.process
@pytest.mark.heavy
def test_t4_re_registrations_leave_two_sessions_and_no_memory(tmp_path: Path) -> None:
    """10,000 of one key, from two places in turn; none goes by itself, and memory is flat."""
    key, rounds = Ed25519PrivateKey.generate(), scaled(10_000, 300) // AT_ONCE
    unheld = ("--hold-messages", "0")
    with RunningService(tmp_path, *unheld) as service, GoodPair(service, 1) as other:
        other.relay_one()
        idle, before = service.descriptors, 0
        for turn in range(rounds):
            with ExitStack() as stack:
                for number in range(AT_ONCE):
                    source = f"127.0.0.{2 + number % 2}"
                    node = ProvedNode(service, key, source=source, granted=False)
                    stack.enter_context(node.connection)
                what = "the holder, the one that waits, and a port"
                wait_until(lambda: service.descriptors <= idle + 3, what=what)
                other.relay_one()
            if turn == rounds // 2:  # by then Python has the memory that it moves things in
                before = service.resident_bytes
        wait_until(lambda: service.descriptors <= idle, what="nobody is left")
        more = service.resident_bytes - before
        figure("more memory in the second half", more / MIB, "MiB")
        assert more < 4 * MIB


LZW = 4


def claims(service: RunningService, source: str) -> int | None:
    """The port that somebody at this address gets for saying what the victim says."""
    with service.connect(source=source) as peer:
        peer.sendall(proxy_request(7))
        try:
            message = receive_message(peer)
        except ConnectionError:
            return None
        return int(pb.ProxyResponse.FromString(message.message).proxy_address.rpartition(":")[2])


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell")
def test_a_claimed_holder_that_is_made_not_to_read_keeps_its_address(tmp_path: Path) -> None:
    """One large frame, and it takes nothing for a while: it is alive, and then cut, not robbed."""
    options = ("--trusted-sources", "none", "--limit", "write-stall-seconds=10s")
    with RunningService(tmp_path, *options) as service, GoodPair(service, 1) as other:
        holder, port = register(service, 7)
        with holder:
            with service.connect(port, source="127.0.0.9") as visitor:
                visitor.sendall(encode_frame(NET, bytes(40 * MIB), flag=1, algorithm=LZW))
                assert claims(service, "127.0.0.9") is None
                assert not ends_unread(holder, 0), "it is alive"
                assert ends_unread(holder, 40), service.log
            other.relay_one()
            assert claims(service, "127.0.0.9") is None
            assert claims(service, "127.0.0.8") is None
            assert claims(service, "127.0.0.1") == port
        service.wait_to_say("is alive: 127.0.0.9 does not get it")
        service.wait_to_say("a claimed lease waits for 127.0.0.1")
