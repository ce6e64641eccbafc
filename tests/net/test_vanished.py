"""Peers whose TCP answers nothing are found; those that merely read nothing are left alone."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock

from proxyservice.net import vanished
from proxyservice.net.keepalive import configure_visitor
from proxyservice.net.tcp_answers import TcpAnswers, tcp_answers
from proxyservice.net.vanished import LOOK_SECONDS, Watch, watch

SECONDS = 30.0


class Path:
    """A connection, as far as the kernel tells of it; times are those of the clock."""

    def __init__(self, clock: Clock) -> None:
        self.reactor = clock
        self.sent_bytes = 100
        self.unacknowledged = False
        self.probes = 0
        self.held_back = False
        self.heard_at = 0.0
        self.looks = 0

    def answers(self) -> TcpAnswers:
        self.looks += 1
        ago = self.reactor.seconds() - self.heard_at
        return TcpAnswers(self.unacknowledged, self.probes, self.held_back, ago)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(vanished, "tcp_answers", lambda path: path.answers())
    return Clock()


def pass_time(clock: Clock, seconds: float) -> None:
    for _ in range(int(seconds * 4)):
        clock.advance(0.25)


def watched(clock: Clock, **state: Any) -> tuple[Path, list[float]]:
    path, told = Path(clock), list[float]()
    for name, value in state.items():
        setattr(path, name, value)
    watch(path, SECONDS, lambda: told.append(clock.seconds()))
    return path, told


def test_what_was_sent_and_is_not_acknowledged_means_that_the_peer_is_gone(clock: Clock) -> None:
    _, told = watched(clock, unacknowledged=True)
    pass_time(clock, SECONDS - 1)
    assert told == []
    pass_time(clock, 1 + 2 * LOOK_SECONDS)
    assert len(told) == 1
    assert not clock.getDelayedCalls(), "nobody is watched any more"


def test_any_acknowledgement_is_life(clock: Clock) -> None:
    path, told = watched(clock, unacknowledged=True)
    for _ in range(10):
        pass_time(clock, 20)
        path.heard_at = clock.seconds()
    assert told == []
    pass_time(clock, SECONDS + 2 * LOOK_SECONDS)
    assert len(told) == 1


def test_a_peer_that_reads_nothing_and_answers_is_alive(clock: Clock) -> None:
    path, told = watched(clock, held_back=True)
    for number in range(100):
        path.probes = number % 3  # one may be lost, or on its way
        pass_time(clock, 15)
    assert told == []
    path.probes = 3
    pass_time(clock, SECONDS + 2 * LOOK_SECONDS)
    assert len(told) == 1


def test_the_silence_before_something_was_sent_does_not_count(clock: Clock) -> None:
    path, told = watched(clock)
    pass_time(clock, 1000)
    path.unacknowledged, path.sent_bytes = True, 200
    pass_time(clock, SECONDS - 1)
    assert told == []


def test_who_is_sent_nothing_costs_nothing(clock: Clock) -> None:
    path, _ = watched(clock)
    pass_time(clock, 1000)
    assert path.looks <= 2
    path.sent_bytes += 1
    pass_time(clock, 2 * LOOK_SECONDS)
    assert 3 <= path.looks <= 4


def test_many_are_looked_at_in_turn_and_those_that_close_are_forgotten(clock: Clock) -> None:
    watching, told = Watch(clock), list[int]()
    paths = [Path(clock) for _ in range(200)]
    for number, path in enumerate(paths):
        path.unacknowledged = True
        watching.add(path, SECONDS, lambda number=number: told.append(number))  # type: ignore[misc]
    clock.advance(0.25)
    assert sum(path.looks for path in paths) == 25, "an eighth in a quarter of a second"
    for path in paths[:100]:
        watching.discard(path)
    pass_time(clock, SECONDS + 2 * LOOK_SECONDS)
    assert sorted(told) == list(range(100, 200))
    assert len(watching) == 0
    assert not clock.getDelayedCalls()


def test_one_that_goes_may_take_others_with_it(clock: Clock) -> None:
    watching, told = Watch(clock), list[str]()
    first, second = Path(clock), Path(clock)
    first.unacknowledged = second.unacknowledged = True

    def end(name: str) -> None:
        told.append(name)
        watching.discard(first)
        watching.discard(second)

    watching.add(first, SECONDS, lambda: end("first"))
    watching.add(second, SECONDS, lambda: end("second"))
    pass_time(clock, SECONDS + 2 * LOOK_SECONDS)
    assert len(told) == 1
    assert not clock.getDelayedCalls()


# -------------------------------------------------------------------------- the kernel


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as mine,
    ):
        peer, _ = listening.accept()
        with peer:
            yield mine, peer


class Transport:
    sent_bytes = 0

    def __init__(self, handle: socket.socket) -> None:
        self.getHandle = lambda: handle


linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell")


@linux
def test_the_kernel_tells_of_a_peer_that_reads_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    mine, _ = pair
    mine.setblocking(False)
    while select.select([], [mine], [], 0.5)[1]:
        mine.send(bytes(1 << 16))
    answers = tcp_answers(Transport(mine))
    assert answers is not None
    assert answers.held_back
    assert not answers.unacknowledged
    assert answers.heard_ago_seconds < 10


@linux
def test_the_kernel_tells_that_nothing_is_owed(pair: tuple[socket.socket, socket.socket]) -> None:
    mine, peer = pair
    mine.sendall(b"question")
    assert peer.recv(8) == b"question"
    while (answers := tcp_answers(Transport(mine))) is not None and answers.unacknowledged:
        select.select([], [], [], 0.01)
    assert answers is not None
    assert (answers.held_back, answers.unanswered_probes) == (False, 0)
    assert answers.alive_within(0)


def test_what_is_closed_or_no_tcp_tells_nothing() -> None:
    closed = socket.socket()
    closed.close()
    assert tcp_answers(Transport(closed)) is None
    with socket.socket(socket.AF_UNIX) as unix:
        assert tcp_answers(Transport(unix)) is None


@linux
def test_a_visitor_is_asked_after_two_thirds_of_its_time() -> None:
    with socket.socket() as handle:
        configure_visitor(handle, 90.0)
        options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        level = socket.IPPROTO_TCP
        assert [handle.getsockopt(level, getattr(socket, one)) for one in options] == [60, 10, 3]
        assert handle.getsockopt(level, socket.TCP_USER_TIMEOUT) == 0, "it may choose not to read"
        configure_visitor(handle, 1.0)
        assert [handle.getsockopt(level, getattr(socket, one)) for one in options] == [1, 1, 3]
