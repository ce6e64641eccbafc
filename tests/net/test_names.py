"""Looking up names in threads that nobody waits for."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address

from proxyservice.net import names
from proxyservice.net.names import LOOKUPS_AT_ONCE, DaemonResolver, NameLookups, _look_up

SIX, FOUR = socket.AF_INET6, socket.AF_INET
WAIT_SECONDS = 20.0


class Reactor:
    """Runs what threads hand over when the test asks for it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self._came = threading.Condition()

    def callFromThread(self, call: Any, *args: Any) -> None:
        with self._came:
            self.calls.append((call, args))
            self._came.notify_all()

    def run(self, count: int = 1) -> None:
        """So many of them, waiting for them."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.calls) >= count, WAIT_SECONDS)
            calls, self.calls = self.calls[:count], self.calls[count:]
        for call, args in calls:
            call(*args)


class NameServer:
    """Answers when the test lets it; counts who asks."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, family: int) -> tuple[list[str], str]:
        self.asked.append((host, family))
        assert self.may_answer.wait(WAIT_SECONDS)
        return [f"{host} {len(self.asked)}"], ""


def test_who_asks_for_the_same_meanwhile_gets_that_answer() -> None:
    reactor, server = Reactor(), NameServer()
    lookups = NameLookups(reactor, server)
    got: list[Any] = []
    for number in range(5):
        lookups.look_up("relay", FOUR, lambda *answer, n=number: got.append((n, answer)))
    forget = lookups.look_up("relay", FOUR, lambda *answer: got.append("unwanted"))
    forget()
    server.may_answer.set()
    reactor.run()
    assert got == [(n, (["relay 1"], "")) for n in range(5)]
    lookups.look_up("relay", FOUR, lambda *answer: got.append(answer))
    reactor.run()
    assert got[-1] == (["relay 2"], ""), "and later there is a new one"


def test_silent_name_servers_have_so_many_threads_and_no_more() -> None:
    reactor, server = Reactor(), NameServer()
    lookups = NameLookups(reactor, server)
    got: list[Any] = []
    for number in range(LOOKUPS_AT_ONCE + 10):
        lookups.look_up(f"name{number}", FOUR, lambda *answer: got.append(answer))
    running = [one for one in threading.enumerate() if one.name == "name lookup"]
    assert len(running) <= LOOKUPS_AT_ONCE
    assert all(one.daemon for one in running), "the end of the process waits for none"
    server.may_answer.set()
    for _ in range(LOOKUPS_AT_ONCE + 10):
        reactor.run()
    assert len(got) == LOOKUPS_AT_ONCE + 10


def test_an_answer_after_the_end_is_dropped() -> None:
    class Gone(Reactor):
        def callFromThread(self, call: Any, *args: Any) -> None:
            raise RuntimeError("the reactor is gone")

    done = threading.Event()

    def answer(host: str, family: int) -> tuple[list[str], str]:
        done.set()
        return [], ""

    NameLookups(Gone(), answer).look_up("relay", FOUR, lambda *answer: None)
    assert done.wait(WAIT_SECONDS)


def test_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*answers: Any) -> Any:
        return lambda *args: [(0, 0, 0, "", answer) for answer in answers]

    monkeypatch.setattr(socket, "getaddrinfo", answers(("::1", 0, 0, 0), ("fe80::1", 0, 0, 7)))
    assert _look_up("relay", SIX) == (["::1", "fe80::1%7"], "")
    monkeypatch.setattr(socket, "getaddrinfo", answers(*[(f"1.1.1.{n}", 0) for n in range(200)]))
    assert len(_look_up("relay", FOUR)[0]) == names.MOST_ADDRESSES
    for error, reason in (
        (socket.gaierror(socket.EAI_NONAME, "?"), "there is no such name"),
        (socket.gaierror(socket.EAI_AGAIN, "?"), "no name server answers"),
        (UnicodeError("label too long"), "that is no name"),
    ):

        def fails(*args: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", fails)
        assert _look_up("relay", FOUR) == ([], reason)


class Receiver:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def resolutionBegan(self, resolution: Any) -> None:
        self.resolution = resolution

    def addressResolved(self, address: Any) -> None:
        self.got.append(address)

    def resolutionComplete(self) -> None:
        self.got.append("complete")


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Reactor:
    reactor = Reactor()
    found = {SIX: ["::1"], FOUR: ["127.0.0.1"]}
    lookups = NameLookups(reactor, lambda host, family: (found[family], ""))
    monkeypatch.setattr(names, "lookups_of", lambda asked: lookups)
    return reactor


def test_twisteds_own_endpoints_are_told_the_same(reactor: Reactor) -> None:
    receiver: Any = Receiver()
    DaemonResolver(reactor).resolveHostName(receiver, "relay", 7)
    reactor.run(2)
    assert receiver.resolution.name == "relay"
    assert receiver.got[-1] == "complete"
    both = {IPv6Address("TCP", "::1", 7), IPv4Address("TCP", "127.0.0.1", 7)}
    assert set(receiver.got[:-1]) == both


def test_twisteds_own_endpoints_may_want_one_family(reactor: Reactor) -> None:
    receiver: Any = Receiver()
    DaemonResolver(reactor).resolveHostName(receiver, "relay", 7, [IPv4Address], "UDP")
    reactor.run()
    assert receiver.got == [IPv4Address("UDP", "127.0.0.1", 7), "complete"]


def test_twisted_may_change_its_mind(reactor: Reactor) -> None:
    receiver: Any = Receiver()
    DaemonResolver(reactor).resolveHostName(receiver, "relay", 7).cancel()
    reactor.run(2)
    assert receiver.got == []
