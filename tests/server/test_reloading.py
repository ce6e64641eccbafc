"""SIGHUP with long files: read elsewhere, in order, whole or not at all; short look-ups."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from proxyservice.server import factory as factory_module
from proxyservice.server import reloading
from proxyservice.server.access import Access
from proxyservice.server.networks import Networks
from proxyservice.server.policy import Policy
from proxyservice.server.reloading import Reloading
from tests.leases.harness import store_thread
from tests.node.processes import Relay, wait_until
from tests.ports import unused_port
from tests.server.memory import MemoryRelay

ENTRIES = 10_000


# ------------------------------------------------------------------------- the look-up


def networks(bits: int, kind: Any) -> st.SearchStrategy[Any]:
    """Near one another, so that they nest."""
    near = st.integers(0, 255).map(lambda low: (0xA0 << (bits - 8)) | low << 3)
    return st.builds(
        lambda value, length: kind((value >> (bits - length) << (bits - length), length)),
        st.one_of(st.integers(0, 2**bits - 1), near),
        st.integers(0, bits),
    )


ANY_NETWORKS = st.lists(st.one_of(networks(32, IPv4Network), networks(128, IPv6Network)))
ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**128 - 1),
    st.integers(0, 1023).map(lambda low: 0xA0 << 24 | low),
    st.integers(0, 1023).map(lambda low: 0xA0 << 120 | low),
).map(ip_address)


@given(ANY_NETWORKS, ADDRESSES)
def test_the_longest_network_is_that_of_a_search_through_all(given_: Any, address: Any) -> None:
    lengths = [one.prefixlen for one in given_ if address in one]
    found = Networks(given_)
    assert found.longest(address) == max(lengths, default=None)
    assert found.count == len(given_)


class Counted(set[int]):
    """Counts how often somebody looks into it."""

    looks = 0

    def __contains__(self, value: object) -> bool:
        Counted.looks += 1
        return super().__contains__(value)


def test_a_look_up_does_not_grow_with_the_list() -> None:
    many = Networks(IPv4Network((n << 8, 24 + n % 9)) for n in range(50_000))
    for version, lengths in many._prefixes.items():
        many._prefixes[version] = [(length, Counted(found)) for length, found in lengths]
    Counted.looks = 0
    assert many.longest(ip_address("255.1.2.3")) is None
    assert Counted.looks <= 9, "once for each length that there is"


# --------------------------------------------------------------------------- the reading


class Thread:
    """Runs what is deferred to it when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        monkeypatch.setattr(reloading, "deferToThread", self.defer)

    def defer(self, call: Callable[[], Any]) -> Deferred[Any]:
        self.waiting.append((call, Deferred()))
        return self.waiting[-1][1]

    def run(self) -> None:
        ((call, done),) = self.waiting
        self.waiting.clear()
        try:
            outcome = call()
        except Exception:  # as deferToThread has it
            done.errback()
        else:
            done.callback(outcome)


def test_two_hangups_in_a_row_are_ordered_and_the_last_file_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thread, file, used = Thread(monkeypatch), ["first"], list[str]()

    def read() -> Callable[[], None]:
        found = file[0]
        return lambda: used.append(found)

    reload = Reloading()
    reload.add(read, lambda: used.append("checked"))
    reload.hangup()
    assert used == [], "nothing is read on the reactor's thread"
    thread.run()
    assert used == ["first", "checked"]
    reload.hangup()
    for text in ("second", "third", "fourth"):
        file[0] = text
        reload.hangup()
    thread.run()
    assert used[2:] == ["fourth", "checked"]
    thread.run()
    assert used[4:] == ["fourth", "checked"], "once more, for all that came meanwhile"
    assert not thread.waiting


def test_a_reader_that_fails_leaves_what_there_was_and_the_next_hangup_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thread, used = Thread(monkeypatch), list[str]()
    broken = [True]

    def read() -> Callable[[], None]:
        if broken[0]:
            raise RuntimeError
        return lambda: used.append("used")

    told: list[object] = []
    monkeypatch.setattr(reloading.log, "failure", lambda *words: told.append(words))
    usual = sys.getswitchinterval()
    reload = Reloading()
    reload.add(read, lambda: used.append("checked"))
    reload.hangup()
    thread.run()
    assert (used, len(told)) == ([], 1)
    broken[0] = False
    reload.hangup()
    thread.run()
    assert used == ["used", "checked"]
    assert sys.getswitchinterval() == usual


def test_reading_changes_nothing_until_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    path.write_text("[default]\nleases = 1\n")
    access = Access(None, path)
    path.write_text("[default]\nleases = 2\n")
    use = access.read_again()
    assert access._policy.default.leases == 1
    use()
    assert access._policy.default.leases == 2
    path.write_text("[default]\nleases = 'x'\n")
    access.read_again()()
    assert access._policy.default.leases == 2


def test_all_are_asked_again_a_few_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory_module, "CHECKED_IN_A_TURN", 2)
    with store_thread():
        relay = MemoryRelay()
        nodes = [relay.node(seed) for seed in range(1, 6)]
        for node in nodes:
            node.prove()
        turns: list[Callable[[], None]] = []
        relay.factory.next_turn = turns.append
        asked: list[object] = []
        kind = type(next(iter(relay.factory.connections)))
        monkeypatch.setattr(kind, "check_access", lambda connection: asked.append(connection))
        relay.factory.check_access()
        assert (len(asked), len(turns)) == (2, 1)
        gone = next(one for one in relay.factory.connections if one not in asked)
        relay.factory.connections.discard(gone)
        while turns:
            turns.pop(0)()
        relay.factory.connections.add(gone)
    assert set(asked) == relay.factory.connections - {gone}
    assert len(asked) == 4


def policy_text(denied: int) -> str:
    lists = ", ".join(f'"10.{n >> 8}.{n & 255}.0/24"' for n in range(denied))
    entries = "".join(
        f'[keys."SHA256:{n:043d}"]\nport = {n + 1}\nvisitors = 3\n' for n in range(ENTRIES)
    )
    return f"[default]\nvisitor_deny = [{lists}]\n{entries}"


def test_what_is_asked_with_each_request_does_not_grow(tmp_path: Path) -> None:
    """The ports that are somebody's own are gathered once for each file."""
    policy = Policy.parse({"keys": {f"SHA256:{n:043d}": {"port": n + 1} for n in range(1000)}})
    assert policy.own_ports is policy.own_ports
    assert policy.own_ports == frozenset(range(1, 1001))


@pytest.mark.heavy
@pytest.mark.process
def test_a_long_policy_is_read_beside_the_reactor(tmp_path: Path) -> None:
    """`Relay.finish` sees to it that no turn took long; what it was is printed."""
    path = tmp_path / "policy.toml"
    path.write_text(policy_text(ENTRIES))
    relay = Relay(tmp_path / "relay", unused_port(), range(1024, 1026), "--policy", str(path))
    try:
        began = time.monotonic()
        for times in (1, 2):
            relay.process.send_signal(signal.SIGHUP)
            text = f"{path} was read again"
            wait_until(lambda times=times, text=text: relay.stdout.count(text) >= times)
        path.write_text("[default")
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_for("what was read before stays in use: .*")
        seconds = time.monotonic() - began
        relay.finish()
        longest = relay.wait_for(r"the longest turn took ([\d.]+) ms")[1]
        print(f"three files in {seconds:.1f} s, the longest turn took {longest} ms")
    finally:
        relay.kill()
    assert "Traceback" not in relay.stdout + relay.stderr
