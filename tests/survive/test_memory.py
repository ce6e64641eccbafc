"""The memory budget is used up: who is there is served, nobody else is, and then all are again."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

import pytest

from tests.attacks.kit import GoodPair, announcement, application_frame, receive, register
from tests.node.processes import Relay, wait_until
from tests.survive.conftest import Relays

pytestmark = [pytest.mark.process, pytest.mark.heavy]

MIB = 1 << 20
BUDGET_BYTES = 16 * MIB
HOGS = 8
"""They take half of it, with a mebibyte each of a frame that they do not finish."""

MORE_BYTES = MIB // 2
"""Of each one after them, until 80 % are taken and no visitor is let in any more."""


def turned_away(relay: Relay, port: int) -> bool:
    """Whether a new visitor is, before it has said anything."""
    try:
        with relay.connect(port) as visitor:
            visitor.settimeout(0.2)
            return visitor.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


class Hogs(ExitStack):
    """Visitors whose frames stay unfinished as long as the block lasts."""

    def __init__(self, relay: Relay, port: int) -> None:
        super().__init__()
        self._relay, self._port = relay, port

    def one_more(self, n_bytes: int) -> None:
        """It may be the one too many, and cut."""
        with suppress(OSError):
            hog = self.enter_context(self._relay.connect(self._port))
            hog.sendall(announcement(64 * MIB, bytes(n_bytes)))


def relays_one(relay: Relay, node: socket.socket, port: int) -> bool:
    """Whether a new visitor's frame comes to its node."""
    frame = application_frame(b"once more")
    with relay.connect(port) as visitor:
        visitor.sendall(frame)
        return receive(node, len(frame)) == frame


def test_the_budget_is_used_up_and_free_again(relays: Relays) -> None:
    relay = relays("--limit", f"memory-bytes={BUDGET_BYTES // MIB}MiB")
    with ExitStack() as stack:
        crowded, port = register(relay, 1)
        stack.enter_context(crowded)
        pair = stack.enter_context(GoodPair(relay, 2))
        with Hogs(relay, port) as hogs:
            for _ in range(HOGS):
                hogs.one_more(MIB)
            wait_until(
                lambda: turned_away(relay, pair.port) or hogs.one_more(MORE_BYTES),
                what=relay.stdout,
            )
            relay.wait_for(f"refused a visitor of port {pair.port}: memory is short.*")
            for _ in range(20):
                pair.relay_one()
            newcomer, _ = register(relay, 3)
            newcomer.close()
        wait_until(lambda: not turned_away(relay, port))
        assert relays_one(relay, crowded, port)
        pair.relay_one()
    assert relay.end() == 0
