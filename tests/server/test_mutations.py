"""Damaged frames by the thousand: the real service lives, its log is clean, nobody else notices."""

from __future__ import annotations

import socket
from pathlib import Path
from random import Random

import pytest

from tests.attacks.kit import (
    GoodPair,
    application_frame,
    drained,
    golden_frames,
    mutated,
    proxy_request,
    register,
)
from tests.attacks.running import RunningService, scaled

pytestmark = [pytest.mark.process, pytest.mark.heavy]

SEED = 1564141146
ON_ONE_CONNECTION = 2
"""Some damage is harmless (an ignored opcode, a changed payload): then the next one follows."""


def test_mutated_frames_disturb_nobody(tmp_path: Path) -> None:
    """Half of them to the main port, half to a proxy port; a good pair works all the time."""
    random, frames, relayed = Random(SEED), golden_frames(), application_frame(b"good")
    with RunningService(tmp_path) as service, GoodPair(service, 1) as pair:
        attacked, port = register(service, 2)
        with attacked:
            attacked.setblocking(False)
            for turn in range(scaled(100_000, 5_000) // (2 * ON_ONE_CONNECTION)):
                for target, good in ((service.port, proxy_request(4)), (port, relayed)):
                    data = [mutated(random, frames) for _ in range(ON_ONE_CONNECTION)]
                    with service.connect(target) as peer:
                        send_all(peer, [good, *data] if turn % 2 else data)
                empty(attacked)
                if turn % 20 == 0:
                    pair.relay_one()
        pair.relay_one()
        again, same = register(service, 2)  # damaged requests have leased the other ports
        again.close()
        assert same == port


def send_all(peer: socket.socket, data: list[bytes]) -> None:
    """Send until the service closes; wait for the end so that every byte was looked at."""
    try:
        for piece in data:
            peer.sendall(piece)
        peer.shutdown(socket.SHUT_WR)
    except OSError:
        return
    assert drained(peer), "neither closed nor answered to the end"


def empty(node: socket.socket) -> None:
    """What damage left good enough to be relayed."""
    try:
        while node.recv(1 << 16):
            pass
    except BlockingIOError:
        return
    raise AssertionError("the attacked node's own connection was closed")
