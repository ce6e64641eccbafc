"""All addresses of a name are tried, whatever their order, and dead ones cost a moment."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from proxyservice.net import race
from proxyservice.net.connect import DialFailure
from proxyservice.net.names import Found
from proxyservice.net.race import NO_ANSWER, STAGGER_SECONDS, Race

SIX, FOUR = socket.AF_INET6, socket.AF_INET
REFUSED = os.strerror(errno.ECONNREFUSED)


class Lookups:
    """What a test says the name servers say, when it says so."""

    def __init__(self) -> None:
        self.asked: dict[int, Found] = {}
        self.forgotten = 0

    def look_up(self, host: str, family: int, found: Found) -> Callable[[], None]:
        self.asked[family] = found

        def forget() -> None:
            self.forgotten += 1

        return forget


class FakeDial:
    """Answers when the test says so."""

    made: list[FakeDial]

    def __init__(
        self, reactor: Any, where: tuple[str, int], build: Any, failed: Any, connected: Any
    ) -> None:
        self.host, self.build, self.connected = where[0], build, connected
        self.failed = lambda reason: failed(DialFailure(reason))
        self.at = reactor.seconds()
        self.cancelled = False
        FakeDial.made.append(self)

    def start(self) -> None: ...

    def cancel(self) -> None:
        self.cancelled = True


class Scene:
    def __init__(self, host: str = "relay") -> None:
        self.clock, self.lookups = Clock(), Lookups()
        self.won: list[str] = []
        self.lost: list[str] = []
        self.race = Race(
            self.clock,
            host,
            7,
            self._build,
            self.lost.append,
            lambda: None,
            self.lookups,  # type: ignore[arg-type]
        )
        self.race.start()

    def _build(self, address: str) -> Protocol:
        self.won.append(address)
        return Protocol()

    def found(self, family: int, *addresses: str) -> None:
        self.lookups.asked[family](list(addresses), "" if addresses else "there is no such name")

    def dialled(self) -> list[str]:
        return [dial.host for dial in FakeDial.made]

    def dial(self, host: str) -> FakeDial:
        return next(dial for dial in FakeDial.made if dial.host == host)

    def is_over(self) -> bool:
        return self.clock.getDelayedCalls() == []


@pytest.fixture(autouse=True)
def fake_dials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "Dial", FakeDial)
    FakeDial.made = []


def test_families_take_turns_and_each_has_a_moment() -> None:
    scene = Scene()
    scene.found(SIX, "a::1", "a::2", "a::3")
    scene.found(FOUR, "1.1.1.1", "2.2.2.2")
    assert scene.dialled() == ["a::1"]
    scene.clock.pump([STAGGER_SECONDS] * 10)
    assert scene.dialled() == ["a::1", "1.1.1.1", "a::2", "2.2.2.2", "a::3"]
    assert [dial.at for dial in FakeDial.made] == [n * STAGGER_SECONDS for n in range(5)]


def test_who_fails_makes_room_at_once() -> None:
    scene = Scene()
    scene.found(SIX, "a::1", "a::2")
    scene.found(FOUR, "1.1.1.1")
    for host in ("a::1", "1.1.1.1"):
        scene.dial(host).failed(REFUSED)
    assert scene.dialled() == ["a::1", "1.1.1.1", "a::2"]
    assert scene.clock.seconds() == 0.0


def test_the_first_to_answer_wins_and_the_others_are_dropped() -> None:
    scene = Scene()
    scene.found(SIX, "a::1")
    scene.found(FOUR, "1.1.1.1", "2.2.2.2")
    scene.clock.advance(STAGGER_SECONDS)
    scene.dial("1.1.1.1").build()
    assert scene.won == ["1.1.1.1"]
    assert scene.dial("a::1").cancelled
    assert scene.is_over()
    assert scene.lost == []


def test_a_name_with_one_family_does_not_wait_for_the_other() -> None:
    scene = Scene()
    scene.found(SIX, "a::1")
    assert scene.dialled() == ["a::1"]
    scene.found(FOUR)
    scene.dial("a::1").failed(REFUSED)
    assert scene.lost == [REFUSED]
    assert scene.is_over()


def test_ipv4_gives_ipv6_a_moment_and_no_more() -> None:
    scene = Scene()
    scene.found(FOUR, "1.1.1.1")
    assert scene.dialled() == []
    scene.clock.advance(0.051)
    assert scene.dialled() == ["1.1.1.1"]
    scene.found(SIX, "a::1")
    assert scene.dialled() == ["1.1.1.1"]
    scene.clock.advance(STAGGER_SECONDS)
    assert scene.dialled() == ["1.1.1.1", "a::1"]


@pytest.mark.parametrize("addresses", [(), ("a::1",)])
def test_with_the_other_answer_there_is_nothing_to_wait_for(addresses: tuple[str, ...]) -> None:
    scene = Scene()
    scene.found(FOUR, "1.1.1.1")
    scene.found(SIX, *addresses)
    assert scene.dialled() == list(addresses or ("1.1.1.1",))
    assert scene.clock.seconds() == 0.0


def test_addresses_that_come_late_are_tried_too() -> None:
    scene = Scene()
    scene.found(SIX, "a::1")
    scene.dial("a::1").failed(REFUSED)
    assert scene.lost == []
    scene.clock.advance(3.0)
    scene.found(FOUR, "1.1.1.1")
    scene.dial("1.1.1.1").build()
    assert scene.won == ["1.1.1.1"]


def test_a_name_that_nobody_has() -> None:
    scene = Scene()
    scene.found(FOUR)
    scene.found(SIX)
    assert scene.lost == ["there is no such name"]
    assert scene.is_over()


def test_silent_name_servers_and_silent_addresses_are_told_apart() -> None:
    scene = Scene()
    scene.clock.advance(10.0)
    assert scene.lost == ["no name server answers within 10 s"]
    assert scene.lookups.forgotten == 2
    scene = Scene()
    scene.found(SIX, "a::1")
    scene.found(FOUR, "1.1.1.1")
    scene.clock.pump([1.0] * 10)
    assert scene.lost == [NO_ANSWER]
    assert all(dial.cancelled for dial in FakeDial.made)
    assert scene.is_over()


def test_different_reasons_are_told_with_their_addresses() -> None:
    scene = Scene()
    scene.found(SIX, "a::1")
    scene.found(FOUR, "1.1.1.1")
    scene.dial("a::1").failed("Network is unreachable")
    scene.dial("1.1.1.1").failed(REFUSED)
    assert scene.lost == [f"[a::1]:7: Network is unreachable; 1.1.1.1:7: {REFUSED}"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%eth0", "fe80::1%7"])
def test_an_address_asks_no_name_server(host: str) -> None:
    scene = Scene(host)
    assert scene.dialled() == [host]
    assert scene.lookups.asked == {}
    scene.dial(host).failed(REFUSED)
    assert scene.lost == [REFUSED]


def test_who_does_not_wait_any_more_hears_nothing() -> None:
    scene = Scene()
    scene.found(SIX, "a::1")
    scene.race.cancel()
    assert scene.dial("a::1").cancelled
    assert scene.lookups.forgotten == 1
    scene.clock.advance(60.0)
    assert scene.won == scene.lost == []
    assert scene.is_over()
