"""The lean loop against Twisted's own: the same program gives the same answers in both.

A reactor runs once in a process, so each run is a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import pytest

from proxyservice.net import lean_loop

PROGRAM = r"""
import json, socket, sys, threading
from twisted.internet import reactor
from twisted.internet.protocol import ClientFactory, Factory
from twisted.internet.tcp import Connector
from proxyservice.net.eager import EagerClient, EagerProtocol, EagerServer
from proxyservice.net.lean_loop import install_lean_loop, turn_end

if sys.argv[1] != "own":
    assert install_lean_loop(reactor, busy_poll=sys.argv[1] == "busy")
seen, ends = [], []
silent = socket.create_server(("127.0.0.1", 0))

class Server(EagerProtocol):
    def bufferReceived(self, view):
        data = bytes(view)
        if data == b"break":
            raise RuntimeError("a protocol's mistake")
        if data == b"bye":
            self.transport.write(b"bye")
            self.transport.loseConnection()
        elif data == b"abort":
            self.transport.abortConnection()
        else:
            self.transport.write(data)
    def connectionLost(self, reason):
        ends.append(reason.type.__name__)

port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")
port.transport = EagerServer

def client():
    def talk(data):
        with socket.create_connection(("127.0.0.1", port.getHost().port), timeout=10) as peer:
            peer.sendall(data)
            try:
                got = peer.recv(100)
                rest = b"" if data == b"echo" else peer.recv(100)
            except ConnectionResetError:
                return "reset"
            return (got + rest).decode()
    for data in (b"echo", b"bye", b"abort", b"break", b"echo"):
        seen.append(talk(data))
    called = threading.Event()
    reactor.callFromThread(called.set)
    seen.append(called.wait(10))
    reactor.callFromThread(later)

def later():
    order = []
    reactor.callLater(0.02, order.append, 2)
    reactor.callLater(0.01, order.append, 1)
    moved = reactor.callLater(60, order.append, 3)
    reactor.callLater(0.03, moved.reset, 0)
    reactor.callLater(0.1, lambda: (seen.append(order), connect()))

class Client(EagerProtocol):
    # closes in a delayed call; what that leads to sets a timer, with nothing else to wake up
    def connectionMade(self):
        reactor.callLater(0.01, self.transport.loseConnection)
    def connectionLost(self, reason):
        started = reactor.seconds()
        reactor.callLater(0.05, lambda: (seen.append(reactor.seconds() - started < 5), stop()))

def stop():
    if reactor.running:
        reactor.stop()

def connect():
    factory = ClientFactory()
    factory.protocol = Client
    connector = Connector(*silent.getsockname(), factory, 10, None, reactor)
    there = *silent.getsockname(), None, connector, reactor
    connector._makeTransport = lambda: EagerClient(*there)
    connector.connect()

threading.Thread(target=client, daemon=True).start()
reactor.callLater(30, reactor.crash)
reactor.run()
print(json.dumps({"seen": seen, "ends": sorted(ends), "active": turn_end.active}))
"""


@pytest.mark.heavy
@pytest.mark.process
def test_all_loops_give_the_same_answers() -> None:
    answers = {}
    for loop in ("busy", "lean", "own"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, loop],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        answers[loop] = json.loads(done.stdout)
    assert answers["busy"].pop("active") is True
    assert answers["lean"].pop("active") is True
    assert answers["own"].pop("active") is False
    assert answers["busy"] == answers["lean"] == answers["own"]
    assert answers["own"]["seen"] == ["echo", "bye", "reset", "", "echo", True, [1, 2, 3], True]


REACTORS = r"""
import sys
from twisted.application.reactors import installReactor
installReactor(sys.argv[1])
from twisted.internet import reactor
from proxyservice.net.lean_loop import install_lean_loop, turn_end
print(install_lean_loop(reactor), turn_end.active)
"""


@pytest.mark.process
@pytest.mark.parametrize("name", ["epoll", "poll", "select", "asyncio"])
def test_only_the_epoll_reactor_gets_it(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REACTORS, name], capture_output=True, text=True, timeout=60
    )
    expected = "True True" if name == "epoll" else "False False"
    assert done.stdout.strip() == expected, done.stderr


BROKEN_LOOP = r"""
import sys
from twisted.logger import globalLogPublisher
from twisted.internet import reactor
from proxyservice.net.lean_loop import install_lean_loop, turn_end

failures, done = [], []
globalLogPublisher.addObserver(lambda event: failures.append(event.get("log_failure")))
assert install_lean_loop(reactor)

class Broken:
    def poll(self, timeout, most):
        raise TypeError("not the poller that was expected")

loop = reactor.doIteration.__self__
assert type(loop).__name__ == "_LeanLoop"
loop._poll = Broken().poll
reactor.callWhenRunning(lambda: turn_end.defer(lambda: done.append("end of turn")))
reactor.callLater(0.05, lambda: (done.append("timer"), reactor.stop()))
reactor.callLater(30, reactor.crash)
reactor.run()
print(len([one for one in failures if one is not None]), turn_end.active, sorted(done))
"""


@pytest.mark.process
def test_a_loop_that_fails_is_told_once_and_replaced() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_LOOP], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "1 False ['end of turn', 'timer']", done.stderr


class Poller:
    """Has an event at the given moments of a clock that each look moves on by a microsecond."""

    def __init__(self, *moments: float) -> None:
        self.now = 0.0
        self.slept = 0
        self._moments = list(moments)

    def clock(self) -> float:
        self.now += 1e-6
        return self.now

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        if timeout != 0 and self.now < self._moments[0]:
            self.slept += 1
            self.now = self._moments[0]
        if self.now < self._moments[0]:
            return []
        del self._moments[0]
        return [(7, 1)]


def sleeps(monkeypatch: pytest.MonkeyPatch, seconds: float, *moments: float) -> list[int]:
    """After each event, how often the loop has slept."""
    poller = Poller(*moments)
    reactor: Any = SimpleNamespace(_poller=poller, _selectables={})
    monkeypatch.setattr(lean_loop.time, "perf_counter", poller.clock)
    loop = lean_loop._LeanLoop(reactor, seconds)
    slept = []
    for _ in moments:
        assert loop._wait(None, 1) == [(7, 1)]
        slept.append(poller.slept)
    return slept


def test_it_sleeps_unless_events_come_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = 40e-6, 1.0
    moments = (far, far + near, far + 2 * near, far + 3 * near, 2 * far, 2 * far + near)
    assert sleeps(monkeypatch, 50e-6, *moments) == [1, 2, 2, 2, 3, 4]
    assert sleeps(monkeypatch, 0.0, *moments) == [1, 2, 3, 4, 5, 6]


def test_in_vain_it_looks_once_and_then_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = (1.0, 40e-6, 80e-6, 80e-6, 400e-6, 400e-6, 40e-6, 40e-6)
    slept = sleeps(monkeypatch, 50e-6, *accumulate(gaps))
    assert slept == [1, 2, 3, 4, 5, 6, 7, 7]


def test_the_longest_turn_is_the_time_between_two_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    poller = Poller(1.0, 2.0, 3.0, 9.0)
    reactor: Any = SimpleNamespace(_poller=poller, _selectables={})
    monkeypatch.setattr(lean_loop.time, "perf_counter", poller.clock)
    monkeypatch.setattr(lean_loop.turn_end, "longest_turn_seconds", 0.0)
    loop = lean_loop._LeanLoop(reactor, 0.0)
    for takes_seconds in (0.25, 0.5, 0.125, 0.0):
        loop._wait(None, 1)
        poller.now += takes_seconds
    assert lean_loop.turn_end.longest_turn_seconds == pytest.approx(0.5, abs=1e-4)
