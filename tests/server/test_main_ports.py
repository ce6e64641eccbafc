"""Main ports: how many connections one turn takes."""

from __future__ import annotations

from types import SimpleNamespace

from proxyservice.server.main_ports import ACCEPTS_PER_TURN, take_few_in_a_turn


def test_a_burst_of_connections_is_taken_by_and_by() -> None:
    waiting, taken = 200, []

    def read() -> None:
        """As Twisted's does: more are taken as more come."""
        some = min(waiting - sum(taken), port.numberAccepts)
        taken.append(some)
        port.numberAccepts = some + 20 if some == port.numberAccepts else max(1, some)

    port = SimpleNamespace(numberAccepts=100, doRead=read)
    take_few_in_a_turn(port)
    while sum(taken) < waiting:
        port.doRead()
    assert max(taken) == ACCEPTS_PER_TURN
