"""One key from many places: T4 on real sockets; the rules are in tests/server/test_takeover.py."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.attacks.kit import GoodPair, ProvedNode
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
    with RunningService(tmp_path) as service, GoodPair(service, 1) as other:
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
