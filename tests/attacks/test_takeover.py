"""One key from many places: T4 on real sockets; the rules are in tests/server/test_takeover.py."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.attacks.kit import GoodPair, ProvedNode, drained
from tests.attacks.running import RunningService, scaled
from tests.node.processes import wait_until

MIB = 1 << 20


@pytest.mark.process
@pytest.mark.heavy
def test_t4_re_registrations_leave_two_sessions_and_no_memory(tmp_path: Path) -> None:
    """10,000 of one key, from two places in turn: the holder and who waits, and memory is flat."""
    key, count, before = Ed25519PrivateKey.generate(), scaled(10_000, 300), 0
    with RunningService(tmp_path) as service, GoodPair(service, 1) as other:
        idle = service.descriptors
        open_ones: deque[ProvedNode] = deque()
        for number in range(count):
            source = f"127.0.0.{2 + number % 2}"
            open_ones.append(ProvedNode(service, key, source=source, granted=False))
            if len(open_ones) > 2:
                oldest = open_ones.popleft()
                if number % 50:
                    oldest.connection.close()
                else:
                    assert drained(oldest.connection), "superseded and closed, though it stays"
                    other.relay_one()
            if number == count // 10:
                before = service.resident_bytes
        assert service.resident_bytes - before < 4 * MIB
        wait_until(lambda: service.descriptors <= idle + 2 + 1, what="two sessions and a port")
        for node in open_ones:
            node.connection.close()
        wait_until(lambda: service.descriptors <= idle, what="nobody is left")
