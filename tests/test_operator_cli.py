"""`proxyservice leases`: what the store says, also while the service writes it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxyservice.leases.lease import Identity, LeaseTimes, Owner
from proxyservice.leases.store import LeaseStore, sqlite_url
from proxyservice.node.cli import main
from proxyservice.server.policy import Policy
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from proxyservice.wire.identity import key_fingerprint
from tests.leases.harness import Run, result, store_thread
from tests.node.processes import EchoServer
from tests.real.conftest import address_of
from tests.survive.conftest import Expose, Relays, echo, expose, relays

__all__ = ["echo", "expose", "relays"]

STARTED = datetime(2026, 3, 1, 12, 0).timestamp()
PROVED = Owner(Identity(True, b"p" * 32), "web")
CLAIMED = Owner(Identity(False, b"c" * 32, b"i" * 32), "")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A claimed lease that was released after an hour; its port is a proved one's since then."""
    with store_thread():
        store = LeaseStore(sqlite_url(tmp_path / "leases.sqlite"), DEFAULT_NETWORK_ID)
        times = LeaseTimes(quarantine=600.0)
        run = Run(store, range(20000, 20002), wall=STARTED, times=times)
        first = run.lease(CLAIMED, source="192.0.2.7", label="a\x1b[31mb")
        run.lease(Owner(Identity(False, b"d" * 32), "other"))
        run.pass_time(3600, 60)
        result(run.registry.release(CLAIMED, first.generation))
        run.pass_time(1200, 60)
        run.lease(PROVED, source="2001:db8::7")
        run.registry.holding_ended(PROVED, run.registry._table.of_owner(PROVED).generation)
        run.stop()
    return tmp_path


def leases(state: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["leases", "--state-dir", str(state), *words])


def objects(ran: Result) -> list[Any]:
    assert ran.exit_code == 0, ran.output
    return [json.loads(line) for line in ran.stdout.splitlines()]


def at(hour: int, minute: int) -> str:
    return f"2026-03-01T{hour}:{minute:02}"


def test_another_network_id_is_no_empty_list_without_a_word(state: Path) -> None:
    ran = leases(state, "--network-id", "99")
    assert ran.exit_code == 0
    told = f"no leases of network id 99; --network-id has some for: {DEFAULT_NETWORK_ID}\n"
    assert ran.stderr == told
    assert leases(state).stderr == ""


def test_the_list_has_a_line_for_each_port(state: Path) -> None:
    ran = leases(state)
    assert ran.exit_code == 0
    heading, first, second = (line.split() for line in ran.stdout.splitlines())
    assert heading == ["PORT", "STATE", "KEY", "ORIGIN", "SOURCE", "LABEL", "SINCE", "LEFT"]
    assert first[:2] == ["20000", "remembered"]
    assert not first[2].endswith("?"), "proved"
    assert first[3:6] == ["web", "2001:db8::7", "-"]
    assert first[6:] == ["2026-03-01", "13:20:00", "30d"]
    assert second[:2] == ["20001", "live"]
    assert second[2].endswith("?"), "claimed"
    assert second[-1] == "-", "it does not end while its node is there"


def test_programs_get_whole_keys_and_times_with_zone(state: Path) -> None:
    proved, claimed = objects(leases(state, "--json"))
    assert (proved["port"], proved["net_key"], proved["proved"]) == (20000, b"p".hex() * 32, True)
    assert proved["left_seconds"] == 30 * 86400
    assert datetime.fromisoformat(proved["since"]).timestamp() == STARTED + 4800
    assert (claimed["port"], claimed["origin"], claimed["left_seconds"]) == (20001, "other", None)
    assert objects(leases(state, "--json", "--port", "20001")) == [claimed]


def test_a_key_has_one_name_everywhere_and_the_policy_takes_it(state: Path) -> None:
    shown = key_fingerprint(PROVED.identity.net_key)
    proved, claimed = objects(leases(state, "--json"))
    assert proved["key"] == shown
    table = [line.split() for line in leases(state).stdout.splitlines()]
    assert table[1][2] == shown
    assert table[2][2] == claimed["key"] + "?"
    said = leases(state, "--at", at(14, 0), "--port", "20000").stdout
    assert f": {shown} for web from 2001:db8::7" in said
    for name in (proved["key"], proved["key"] + "=", proved["net_key"]):
        policy = Policy.parse({"keys": {name: {"leases": 3}}, "tokens": {"a": {"keys": [name]}}})
        assert policy.rules(shown, "", ()).leases == 3
        assert policy.rules("", "a", ()).keys == {shown}


def test_one_key_has_one_entry_however_it_is_written() -> None:
    net_key = PROVED.identity.net_key
    entries = {key_fingerprint(net_key): {"leases": 1}, net_key.hex(): {"leases": 2}}
    with pytest.raises(ValueError, match="there is an entry of this key before"):
        Policy.parse({"keys": entries})


def test_who_had_a_port_then(state: Path) -> None:
    ran = leases(state, "--at", at(12, 30), "--port", "20000")
    assert ran.exit_code == 0
    (line,) = ran.stdout.splitlines()
    assert line.startswith("port 20000 at 2026-03-01 12:30:00: ")
    assert "? (a?[31mb) from 192.0.2.7, since 2026-03-01 12:00:00 until " in line
    assert line.endswith(" 13:00:00, released"), "and no escape sequence of the node's is shown"
    (past,) = objects(leases(state, "--json", "--at", at(12, 59), "--port", "20000"))
    assert (past["net_key"], past["outcome"]) == (b"c".hex() * 32, "released")
    (now,) = objects(leases(state, "--json", "--at", at(14, 0), "--port", "20000"))
    assert (now["net_key"], now["outcome"], now["until"]) == (b"p".hex() * 32, "remembered", None)
    seconds = str(int(STARTED) + 60)
    assert objects(leases(state, "--json", "--at", seconds, "--port", "20000")) == [past]


@pytest.mark.parametrize("then", [at(11, 59), at(13, 10)], ids=["before", "in quarantine"])
def test_nobody_had_it_then(state: Path, then: str) -> None:
    ran = leases(state, "--at", then, "--port", "20000")
    assert ran.stdout.startswith("nobody had port 20000 at 2026-03-01 ")
    assert ran.exit_code == 0
    assert objects(leases(state, "--json", "--at", then, "--port", "20000")) == [None]


def test_nothing_is_written(state: Path) -> None:
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    leases(state)
    leases(state, "--at", at(12, 30), "--port", "20000")
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--at", "2026-03-01"], 2, "--port"),
        (["--at", "noon", "--port", "20000"], 2, "'noon' is no time"),
        (["--port", "0"], 2, "--port"),
        (["--store", "postgres://x"], 2, "is no store"),
        (["--store", "memory:"], 1, "only be read by its own process"),
        (["--state-dir", "nowhere"], 1, "there is no store"),
        (["--network-id", "x"], 2, "--network-id"),
        (["more"], 2, "more"),
    ],
)
def test_what_is_wrong_is_one_line(state: Path, words: list[str], status: int, said: str) -> None:
    ran = leases(state, *words)
    assert ran.exit_code == status
    assert ran.stdout == ""
    assert ran.stderr.startswith("Error: ")
    assert ran.stderr.count("\n") == 1
    assert said in ran.stderr


@pytest.mark.parametrize("broken", ["not a database", "another program's"])
def test_a_file_that_is_no_store_is_one_line(state: Path, broken: str) -> None:
    path = state / "leases.sqlite"
    path.unlink()
    if broken == "not a database":
        path.write_bytes(b"x" * 10_000)
    else:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE cats (name TEXT)")
        other.close()
    ran = leases(state)
    assert ran.exit_code == 1
    assert ran.stderr.count("\n") == 1
    assert str(path) in ran.stderr


def test_another_network_has_no_leases_here(state: Path) -> None:
    assert len(leases(state, "--network-id", "7").stdout.splitlines()) == 1


@pytest.mark.process
def test_it_reads_beside_the_running_service(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays()
    exposing = expose(echo.port, "--via", relay.via, "--label", "mine")
    address = address_of(exposing, echo.port)
    state = relay.directory / "state"
    (row,) = objects(leases(state, "--json"))
    assert address.endswith(f":{row['port']}")
    assert (row["state"], row["origin"], row["label"]) == ("live", str(echo.port), "mine")
    relay.kill()
    (row,) = objects(leases(state, "--json"))
    assert (row["state"], row["label"]) == ("live", "mine"), "as far as was written"
