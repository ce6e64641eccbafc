"""What `proxyservice expose` says, to people and to programs."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from proxyservice.errors import (
    ProxyServiceError,
    RefusedError,
    UnreachableError,
    UntrustedError,
)
from proxyservice.node.announcements import Announcements, lines_lost
from proxyservice.node.lease import NodeLease
from proxyservice.node.progress import LiveLine, Traffic
from proxyservice.standard_streams import unblocked
from proxyservice.wire import proxyservice_pb2 as pb

UNAVAILABLE = RefusedError(pb.REFUSAL_ADDRESS_UNAVAILABLE, "it is taken")
REFUSED = RefusedError(pb.REFUSAL_QUOTA, "8 leases are enough")
SUPERSEDED = RefusedError(pb.REFUSAL_SUPERSEDED, "by 192.0.2.7")


class Heard:
    """Announcements, and what came of them."""

    def __init__(self, *, as_json: bool = False, leases: int = 1, servers: int = 1) -> None:
        self.stdout, self.stderr, self.clock = io.StringIO(), io.StringIO(), Clock()
        self.ended_by: list[ProxyServiceError] = []
        self.say = Announcements(
            self.stdout,
            LiveLine(self.stderr),
            as_json=as_json,
            leases=leases,
            end=self.ended_by.append,
            clock=self.clock,
            servers=servers,
        )

    def lines(self) -> list[str]:
        """Those on stderr, without the time of day."""
        lines = self.stderr.getvalue().splitlines()
        assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
        return [line[9:] for line in lines]

    def objects(self) -> list[dict[str, Any]]:
        objects = [json.loads(line) for line in self.stdout.getvalue().splitlines()]
        for one in objects:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}\+00:00", one.pop("time"))
        return objects


def lease(address: str = "198.51.100.1:20000", origin: str = "8080") -> NodeLease:
    made = NodeLease(origin, pb.MODE_STREAMS, port=20001)
    made.grant(pb.ProxyResponse(proxy_address=address))
    return made


def any_port() -> NodeLease:
    made = lease()
    made.port_or_any = True
    return made


def test_one_line_when_reachable_and_none_after_a_mere_reconnect() -> None:
    heard = Heard()
    heard.say.addressed(lease(), changed=True)
    heard.say.addressed(lease(), changed=False)
    heard.say.addressed(lease("198.51.100.1:20007"), changed=True)
    assert heard.stdout.getvalue() == (
        "exposed 8080 at 198.51.100.1:20000\nexposed 8080 at 198.51.100.1:20007\n"
    )
    assert heard.lines() == ["8080 is reached at 198.51.100.1:20000 again"]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("evil", ["\x1b[2J", "\r\nx", "\u202e", "\x9b", "y" * 5000])
def test_nothing_that_a_relay_says_steers_a_terminal_or_floods_it(as_json: bool, evil: str) -> None:
    heard = Heard(as_json=as_json, leases=99)
    error = RefusedError(pb.REFUSAL_QUOTA, evil)
    granted = lease(f"{evil}:1")
    heard.say.addressed(granted, changed=True)
    heard.say.addressed(granted, changed=False)
    for tell in (heard.say.lease_refused, heard.say.port_unavailable):
        tell(granted, error)
    heard.say.lease_delayed(granted, error, 1.0)
    heard.say.disconnected("relay:1", UnreachableError(evil), 1.0)
    heard.say.target_down("8080", evil)
    heard.say.released(granted)
    heard.say.gave_up(error)
    for line in heard.stderr.getvalue().splitlines() + heard.stdout.getvalue().splitlines():
        assert line.isprintable()
        assert len(line) < 1500
    for one in heard.objects() if as_json else []:
        for value in one.values():
            assert str(value).isprintable()
            assert len(str(value)) <= 1000


def test_a_relay_cannot_forge_a_second_line() -> None:
    heard = Heard()
    heard.say.addressed(lease("a:1\nexposed 22 at b:2"), changed=True)
    assert heard.stdout.getvalue() == "exposed 8080 at a:1?exposed 22 at b:2\n"


def everything(say: Announcements) -> None:
    say.started(Path("/state/node.key"), "SHA256:abc")
    say.connecting("relay:6008")
    say.disconnected("relay:6008", UnreachableError("Connection refused."), 0.25)
    say.connected("relay:6008", "192.0.2.1:40000")
    say.port_unavailable(any_port(), UNAVAILABLE)
    say.lease_delayed(lease(), RefusedError(pb.REFUSAL_EXHAUSTED, "no port is left"), 5.0)
    say.addressed(lease(), changed=True)
    say.addressed(lease(), changed=False)
    say.target_down("8080", "Connection refused.")
    say.target_down("8080", "Connection refused.", visitors=57)
    say.lease_refused(lease(), REFUSED)
    say.gave_up(UnreachableError("nobody is left"))
    say.gave_up(SUPERSEDED)
    say.lease_refused(lease(), SUPERSEDED)
    say.released(lease())
    say.not_released(lease())
    say.ended(Traffic(visitors_total=17, bytes_in=1024, bytes_out=7))


def test_what_people_read() -> None:
    heard = Heard()
    everything(heard.say)
    assert heard.lines() == [
        "key SHA256:abc in /state/node.key",
        "relay:6008: Connection refused; trying again in 0.2 s",
        "connected to relay:6008",
        "port 20001 is unavailable (it is taken); asking for any other",
        "no address for 8080 yet: no port is left; asking again in 5.0 s",
        "8080 is reached at 198.51.100.1:20000 again",
        "target 8080 is down: Connection refused",
        "target 8080 is down: Connection refused (57 visitors closed)",
        "no address for 8080: 8 leases are enough",
        "giving up: nobody is left",
        "superseded: another process with this key took over (by 192.0.2.7)",
        "superseded: another process with this key took over 8080 (by 192.0.2.7)",
        "198.51.100.1:20000 was released",
        "198.51.100.1:20000 was not released: no connection; it stays remembered",
        "ended: 17 visitors, in 1KiB, out 7B",
    ]
    assert heard.stdout.getvalue() == "exposed 8080 at 198.51.100.1:20000\n"


def test_what_programs_read_is_as_documented() -> None:
    heard = Heard(as_json=True)
    everything(heard.say)
    text = (Path(__file__).parents[2] / "docs" / "node.md").read_text()
    documented = {
        event: set(re.findall(r"`(\w+)`", fields))
        for event, fields in re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    }
    told = {one.pop("event"): set(one) for one in heard.objects()}
    assert told == {event: documented[event] for event in told}
    assert {event for event, fields in documented.items() if "reason" in fields} <= told.keys()


def test_objects_carry_numbers_and_names() -> None:
    heard = Heard(as_json=True)
    everything(heard.say)
    objects = {one["event"]: one for one in heard.objects()}
    assert objects["exposed"] == {
        "event": "exposed",
        "target": "8080",
        "address": "198.51.100.1:20000",
    }
    assert objects["target_down"]["visitors"] == 57
    assert objects["disconnected"]["retry_seconds"] == 0.25
    assert objects["ended"]["bytes_in"] == 1024


def test_an_outage_is_said_when_it_begins_and_then_ever_more_seldom() -> None:
    heard = Heard(as_json=True)
    for _ in range(600):
        heard.say.disconnected("relay:6008", UnreachableError("refused"), 1.0)
        heard.clock.advance(1.0)
    assert heard.lines() == [
        "relay:6008: refused; trying again in 1.0 s",
        "relay:6008: refused; trying again in 1.0 s (60 attempts)",
        "relay:6008: refused; trying again in 1.0 s (120 attempts)",
        "relay:6008: refused; trying again in 1.0 s (240 attempts)",
    ]
    assert len(heard.objects()) == 600, "programs hear of each"


def test_another_reason_is_news() -> None:
    heard = Heard()
    for error in (UnreachableError("refused"), REFUSED, UnreachableError("refused"), REFUSED):
        heard.say.disconnected("relay:6008", error, 300.0)
    assert heard.lines() == [
        "relay:6008: refused; trying again in 5m",
        "relay:6008: 8 leases are enough; trying again in 5m",
    ]


def test_a_relay_that_comes_and_goes_fills_no_screen() -> None:
    heard = Heard()
    for _ in range(50):
        heard.say.connected("relay:6008", "")
        heard.say.addressed(lease(), changed=False)
        heard.clock.advance(0.5)
        heard.say.disconnected("relay:6008", UnreachableError("closed"), 0.5)
        heard.clock.advance(0.5)
    assert len(heard.lines()) == 5
    heard.say.connected("relay:6008", "")
    heard.say.addressed(lease(), changed=False)
    heard.clock.advance(20)
    heard.say.disconnected("relay:6008", UnreachableError("closed"), 0.5)
    assert heard.lines()[-1] == "relay:6008: closed; trying again in 0.5 s", "it had been well"


def test_that_somebody_else_answers_is_said_each_time() -> None:
    heard = Heard()
    for _ in range(3):
        heard.say.disconnected("relay:6008", UntrustedError("not the relay it was"), 300.0)
    assert heard.lines() == ["relay:6008: not the relay it was; trying again in 5m"] * 3


def test_it_ends_when_nothing_is_left_to_serve() -> None:
    heard = Heard(leases=2)
    heard.say.lease_refused(lease(), REFUSED)
    assert heard.ended_by == []
    heard.say.lease_refused(lease(origin="22"), REFUSED)
    heard.say.gave_up(SUPERSEDED)
    assert heard.ended_by == [REFUSED]


def test_it_ends_when_the_node_gives_up() -> None:
    heard = Heard(leases=2)
    heard.say.lease_refused(lease(), REFUSED)
    heard.say.gave_up(SUPERSEDED)
    assert heard.ended_by == [SUPERSEDED]


def test_a_port_that_is_unavailable_is_the_end_when_there_was_no_address() -> None:
    heard = Heard(as_json=True)
    heard.say.port_unavailable(lease(), UNAVAILABLE)
    heard.say.disconnected("relay:6008", UNAVAILABLE, 1.0)
    assert heard.ended_by == [UNAVAILABLE]
    assert heard.lines() == [
        "port 20001 is unavailable (it is taken); --port-or-any would take any other"
    ]
    assert [one["event"] for one in heard.objects()] == ["port_unavailable", "gave_up"]


def test_it_is_not_the_end_while_a_server_is_left_to_ask_nor_after_an_address() -> None:
    heard = Heard(servers=2)
    heard.say.port_unavailable(lease(), UNAVAILABLE)
    assert heard.ended_by == []
    heard.say.port_unavailable(lease(), UNAVAILABLE)
    assert heard.ended_by == [UNAVAILABLE]
    heard = Heard()
    heard.say.addressed(lease(), changed=True)
    heard.say.port_unavailable(lease(), UNAVAILABLE)
    assert heard.ended_by == []
    assert heard.lines() == ["port 20001 is unavailable (it is taken); it will be asked for again"]


def test_a_new_key_is_called_new() -> None:
    heard = Heard()
    heard.say.started(Path("/state/node.key"), "SHA256:abc", new_key=True)
    (line,) = heard.lines()
    assert line.startswith("new key SHA256:abc made in /state/node.key")


def test_a_reader_that_has_gone_ends_nothing() -> None:
    heard = Heard()
    reader, writer = os.pipe()
    heard.say._stdout = unblocked(os.fdopen(writer, "w", closefd=False))
    os.close(reader)
    heard.say.addressed(lease(), changed=True)
    heard.say.addressed(lease(), changed=True)
    os.close(writer)


def test_objects_that_are_missing_are_told_as_an_object() -> None:
    assert json.loads(lines_lost(3, as_json=True))["lines"] == 3
    assert lines_lost(1, as_json=False) == "# 1 line could not be written here\n"


def test_addresses_and_a_live_line_share_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    heard = Heard()
    heard.stderr.isatty = lambda: True  # type: ignore[method-assign]
    line = LiveLine(heard.stderr)
    heard.say = Announcements(
        heard.stderr, line, as_json=False, leases=1, end=heard.ended_by.append, clock=heard.clock
    )
    line.draw("1 visitor")
    heard.say.addressed(lease(), changed=True)
    assert heard.stderr.getvalue() == (
        "\r1 visitor\x1b[K\r\x1b[Kexposed 8080 at 198.51.100.1:20000\n"
    )
