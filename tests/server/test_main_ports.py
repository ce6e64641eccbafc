"""Main ports: how many connections one turn takes."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from proxyservice.server.main_ports import ACCEPT_SECONDS, ACCEPTS_AT_ONCE, take_few_in_a_turn


class Port:
    """Takes connections as Twisted's does, more as more come; each takes a while."""

    def __init__(self, waiting: int, seconds_each: float) -> None:
        self.waiting, self.seconds_each = waiting, seconds_each
        self.numberAccepts = 100
        self.seconds = 0.0

    def doRead(self) -> None:
        accepted = min(self.waiting, self.numberAccepts)
        self.waiting -= accepted
        self.seconds += accepted * self.seconds_each
        grown = accepted + 20 if accepted == self.numberAccepts else max(1, accepted)
        self.numberAccepts = grown


@pytest.mark.parametrize("seconds_each", [0.00005, 0.0005, 0.02])
def test_a_burst_of_connections_is_taken_by_and_by(
    monkeypatch: pytest.MonkeyPatch, seconds_each: float
) -> None:
    port = Port(201, seconds_each)
    monkeypatch.setattr(time, "thread_time", lambda: port.seconds)
    take_few_in_a_turn(port)
    turns = []
    while port.waiting:
        begun = port.seconds
        port.doRead()
        turns.append(port.seconds - begun)
    assert max(turns) <= ACCEPT_SECONDS + ACCEPTS_AT_ONCE * seconds_each
    assert max(turns[:-1]) >= min(ACCEPT_SECONDS, ACCEPTS_AT_ONCE * seconds_each)


def test_one_connection_is_one_read() -> None:
    port = SimpleNamespace(numberAccepts=100, reads=0)

    def read() -> None:
        port.reads += 1
        port.numberAccepts = 1

    port.doRead = read
    take_few_in_a_turn(port)
    port.doRead()
    assert port.reads == 1
