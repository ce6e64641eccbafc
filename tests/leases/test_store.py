"""The store: what is written is read again, older stores are brought up to date, and every
failure is one line that says what to do.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxyservice.errors import RefusedError, StoreError
from proxyservice.leases import store as store_module
from proxyservice.leases.lease import Identity, Owner, Shown
from proxyservice.leases.reading import StoredLeases
from proxyservice.leases.rows import Batch, PastLease, Row
from proxyservice.leases.schema import SCHEMA_VERSION
from proxyservice.leases.store import LeaseStore, sqlite_url, store_url
from tests.leases.harness import Run, on_disk, result, store_thread
from tests.leases.joined import claimed, proved

NETWORK = 1
VERSION_1 = Path(__file__).with_name("store_version_1.sql")
VERSION_2 = Path(__file__).with_name("store_version_2.sql")
VERSION_1_NETWORK = 1564141146

ROWS = [
    Row(1, "live", proved(1, "ü:22"), 5e9, 4e9, 1e9, 2e9, "2001:db8::1", "my label"),
    Row(2, "remembered", claimed(2), 3e9, 3e9, 1e9, 3e9, "192.0.2.1"),
    Row(3, "quarantined", claimed(2), 3e9, heard=4e9),
    Row(4, "quarantined", None, 3e9, heard=5e9),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases.sqlite"


@pytest.fixture
def opened(path: Path) -> Iterator[LeaseStore]:
    store = LeaseStore(sqlite_url(path), NETWORK)
    store.open(100.0)
    yield store
    store.close()


def reading(path: Path, network: int = NETWORK) -> StoredLeases:
    return StoredLeases(sqlite_url(path), network)


# -------------------------------------------------------- what it is for


@pytest.mark.parametrize("where", ["file", "memory"])
def test_what_is_written_is_read_again(path: Path, where: str) -> None:
    store = LeaseStore("memory:" if where == "memory" else sqlite_url(path), NETWORK)
    assert store.open(100.0).rows == []
    store.write(Batch(rows=ROWS, heartbeat=200.0))
    if where == "file":
        store.close()
        loaded = store.open(300.0)
        assert (loaded.epoch, loaded.heartbeat, loaded.rows) == (2, 200.0, ROWS)
        store.write(Batch(gone=[1, 3, 4, 77]))
        store.close()
        assert store.open(300.0).rows == [ROWS[1]]
    store.close()


def test_networks_do_not_see_each_other(path: Path) -> None:
    for network in (1, 2):
        store = LeaseStore(sqlite_url(path), network)
        store.open(100.0)
        store.write(Batch(rows=[Row(1, "live", claimed(network), 9e9)], heartbeat=network * 1000))
        store.close()
    with closing(LeaseStore(sqlite_url(path), 1)) as store:
        loaded = store.open(0.0)
    assert loaded.heartbeat == 1000
    assert [row.owner for row in loaded.rows] == [claimed(1)]


def test_a_batch_is_written_whole_or_not_at_all(opened: LeaseStore, path: Path) -> None:
    opened.write(Batch(rows=ROWS[:1]))
    broken = PastLease(2, claimed(2), 1.0, None, 1.0, "", "", "expired")  # without an end
    with pytest.raises(StoreError):
        opened.write(Batch(rows=ROWS[1:], gone=[1], past=[broken]))
    with closing(reading(path)) as stored:
        assert stored.listing()[1] == ROWS[:1]


def test_who_started_before_writes_nothing_any_more(opened: LeaseStore, path: Path) -> None:
    newer = LeaseStore(sqlite_url(path), NETWORK)
    newer.open(101.0)
    with pytest.raises(StoreError, match="another service has opened it since"):
        opened.write(Batch(rows=ROWS[:1]))
    newer.write(Batch(rows=ROWS[1:]))
    newer.close()
    last = LeaseStore(sqlite_url(path), NETWORK)
    assert len(last.open(102.0).rows) == len(ROWS) - 1
    last.close()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "sqlite:////state/leases.sqlite"),
        ("sqlite:", "sqlite:////state/leases.sqlite"),
        ("memory:", "memory:"),
        ("sqlite:////var/x y?#%20.db", "sqlite:////var/x y?#%20.db"),
        ("sqlite:///x.db", f"sqlite:///{Path.cwd()}/x.db"),
    ],
)
def test_store_url(text: str, url: str) -> None:
    assert store_url(text, Path("/state")) == url


@pytest.mark.parametrize("text", ["x", "sqlite:x", "sqlite:///", "postgresql://h/db", "memory"])
def test_what_is_no_store_url_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="sqlite:, sqlite:///path or memory:"):
        store_url(text, Path("/state"))


def test_odd_names_of_files_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a b?mode=ro#%41.db"
    store = LeaseStore(sqlite_url(path), NETWORK)
    store.open(1.0)
    assert path.exists()
    with closing(reading(path)) as stored:
        assert stored.listing() == (1.0, [])
    store.close()


# -------------------------------------------------------------------- history


def past(port: int, number: int, since: float, until: float) -> PastLease:
    return PastLease(port, claimed(number), since, until, until - 1, "192.0.2.1", "x", "released")


def test_who_had_which_port_when(opened: LeaseStore, path: Path) -> None:
    opened.write(
        Batch(
            past=[past(1, 1, 100.0, 200.0), past(1, 2, 200.0, 300.0), past(2, 3, 100.0, 900.0)],
            rows=[Row(1, "live", claimed(4), 9e9, 9e9, since=400.0, heard=500.0), ROWS[2]],
        )
    )
    store = reading(path)
    assert store.holder_at(1, 99.9) is None
    assert store.holder_at(1, 100.0) == past(1, 1, 100.0, 200.0)
    assert store.holder_at(1, 200.0) == past(1, 2, 200.0, 300.0)
    assert store.holder_at(1, 350.0) is None
    now = store.holder_at(1, 450.0)
    assert now is not None
    assert (now.owner, now.until, now.outcome) == (claimed(4), None, "live")
    assert store.holder_at(3, 4e9) is None, "nobody has what is in quarantine"
    store.close()


def test_the_history_is_bounded_in_time_and_in_number(
    opened: LeaseStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MOST_PAST_LEASES", 10)
    monkeypatch.setattr(store_module, "FORGOTTEN_AT_ONCE", 4)
    monkeypatch.setattr(store_module, "FORGOTTEN_FOR_EACH", 0)
    opened.write(Batch(past=[past(1, 1, float(n), n + 1.0) for n in range(20)]))
    opened.write(Batch(heartbeat=1.0, forget_before=5.0))
    assert count(path) == 20 - 4 - 4, "four too old, four too many, the rest next time"
    for _ in range(3):
        opened.write(Batch(heartbeat=1.0, forget_before=5.0))
    assert count(path) == 10
    opened.write(Batch(heartbeat=1.0, forget_before=15.0))
    opened.write(Batch(heartbeat=1.0, forget_before=15.0))
    assert count(path) == 6  # that end at 15 to 20
    opened.write(Batch(forget_before=99.0))
    assert count(path) == 6, "only with a heartbeat"


def test_pruning_keeps_pace_with_what_is_written(
    opened: LeaseStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes between two heartbeats: the history never outgrows its bound."""
    monkeypatch.setattr(store_module, "MOST_PAST_LEASES", 100)
    for batch in range(50):
        opened.write(Batch(past=[past(1, 1, float(batch), batch + 1.0) for _ in range(40)]))
        assert count(path) <= 100
    monkeypatch.setattr(store_module, "MOST_PAST_LEASES", 10_000)
    opened.write(Batch(past=[past(1, 1, 90.0, 91.0) for _ in range(40)], forget_before=60.0))
    assert count(path) == 100 + 40 - 80, "two that are too old for each new one"


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM history").fetchone()[0])


def test_the_registry_keeps_history_by_the_clock_on_the_wall(path: Path) -> None:
    with store_thread():
        run = Run(on_disk(path), range(1, 3), wall=1e9)
        grant = run.lease(claimed(1), wanted_port=1)
        run.pass_time(10)
        run.lease(claimed(1), wanted_port=2)  # moves, and begins a new generation
        run.pass_time(10)
        run.wall_offset += 3600  # somebody sets the clock
        result(run.registry.release(claimed(1), grant.lease.generation))
        store = reading(path)
        first, second = store.holder_at(1, 1e9 + 5), store.holder_at(2, 1e9 + 15)
        assert first is not None
        assert (first.since, first.until, first.outcome) == (1e9, 1e9 + 10, "moved")
        assert second is None, "the clock was set: that moment was 3600 s later"
        second = store.holder_at(2, 1e9 + 3615)
        assert second is not None
        assert (second.since, second.until) == (1e9 + 3610, 1e9 + 3620)
        assert second.outcome == "released"
        store.close()
        run.stop()


# ------------------------------------------------------ beside a running service


def test_a_tool_reads_while_the_service_runs_and_after_it(opened: LeaseStore, path: Path) -> None:
    opened.write(Batch(rows=ROWS, heartbeat=7.0))
    beside = reading(path)
    assert beside.listing() == (7.0, ROWS)
    opened.write(Batch(gone=[2]))
    assert len(beside.listing()[1]) == 3
    beside.close()
    opened.close()
    assert not path.with_name(path.name + "-wal").exists()
    after = reading(path)
    assert len(after.listing()[1]) == 3
    after.close()
    opened.open(8.0)


def test_a_tool_cannot_write(opened: LeaseStore, path: Path) -> None:
    beside = reading(path)
    with (
        closing(beside._connect()) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM leases")
    beside.close()


@pytest.mark.parametrize("url", ["memory:", "sqlite:////nowhere/at/all.sqlite"])
def test_a_tool_says_what_it_cannot_read(url: str) -> None:
    with pytest.raises(StoreError):
        StoredLeases(url, NETWORK)
    assert not Path("/nowhere").exists()


# ------------------------------------------------------------- older and newer


def from_script(path: Path, script: Path = VERSION_1) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL").close()
        connection.executescript(script.read_text())


def test_a_store_of_version_1_is_brought_up_to_date(path: Path) -> None:
    from_script(path)
    with pytest.raises(StoreError, match=r"schema 1.*starting the service"):
        reading(path, VERSION_1_NETWORK)
    store = LeaseStore(sqlite_url(path), VERSION_1_NETWORK)
    loaded = store.open(1800000000.0)
    assert (loaded.epoch, loaded.heartbeat) == (2, 1700000060.0)
    first, second, third = sorted(loaded.rows, key=lambda row: row.port)
    origin = "tcp://10.0.0.1:30001"
    assert first == Row(
        20000,
        "remembered",
        Owner(Identity(False, b"\1" * 32, b"\2" * 32), origin),
        expires=1700014400.0,
        promised=1700014400.0,
        since=1700000060.0,
        heard=1700000060.0,
        source="192.0.2.1",
    )
    assert second.owner == Owner(Identity(False, b"\3" * 33), "")
    assert (third.state, third.owner, third.expires) == ("quarantined", None, 1700000300.0)
    store.write(Batch(rows=[first], past=[past(1, 1, 1.0, 2.0)], heartbeat=1800000001.0))
    store.close()
    assert store.open(1800000000.0).epoch == 3
    store.close()


def test_a_store_of_version_2_is_brought_up_to_date(path: Path) -> None:
    from_script(path, VERSION_2)
    with pytest.raises(StoreError, match=r"schema 2.*starting the service"):
        reading(path, VERSION_1_NETWORK)
    with closing(LeaseStore(sqlite_url(path), VERSION_1_NETWORK)) as store:
        loaded = store.open(1700000060.0)
    assert (loaded.epoch, loaded.heartbeat) == (2, 1700000060.0)
    assert {row.port: (row.state, row.homes, row.shown) for row in loaded.rows} == {
        20000: ("live", (), Shown()),
        20001: ("remembered", (), Shown()),
        20002: ("quarantined", (), Shown()),
    }
    with closing(reading(path, VERSION_1_NETWORK)) as stored:
        past = stored.holder_at(20003, 1699995000.0)
    assert past is not None
    assert past.outcome == "released"


def test_leases_of_version_2_are_still_theirs(path: Path) -> None:
    from_script(path, VERSION_2)
    with store_thread():
        store = LeaseStore(sqlite_url(path), VERSION_1_NETWORK)
        run = Run(store, range(20000, 20004), wall=1.7e9 + 100)
        owner = Owner(Identity(True, b"\1" * 32), "8080")
        assert run.lease(owner).lease.port == 20000
        run.stop()


@pytest.mark.parametrize("script", [VERSION_1, VERSION_2])
def test_a_migrated_store_has_the_tables_of_a_new_one(
    path: Path, tmp_path: Path, script: Path
) -> None:
    from_script(path, script)
    shapes = []
    for file in (path, tmp_path / "new.sqlite"):
        store = LeaseStore(sqlite_url(file), VERSION_1_NETWORK)
        store.open(0.0)
        store.close()
        with closing(sqlite3.connect(file)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            shapes.append(
                {
                    (table, column[1], column[2], column[3], column[5])
                    for (table,) in tables
                    for column in connection.execute(f"PRAGMA table_info({table})")
                }
            )
    assert shapes[0] == shapes[1]


def test_leases_of_version_1_are_still_theirs(path: Path) -> None:
    from_script(path)
    with store_thread():
        store = LeaseStore(sqlite_url(path), VERSION_1_NETWORK)
        run = Run(store, range(20000, 20004), wall=1.9e9)
        owner = Owner(Identity(False, b"\1" * 32, b"\2" * 32), "tcp://10.0.0.1:30001")
        assert run.lease(owner).lease.port == 20000
        assert run.registry.counts()["quarantined"] == 1
        run.stop()


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_script(path)
    before = dump(path)
    monkeypatch.setattr(
        "proxyservice.leases.schema._STEPS",
        {1: ("ALTER TABLE leases ADD COLUMN state TEXT",), 2: ("UPDATE nowhere SET at = 1",)},
    )
    with pytest.raises(StoreError, match="no such table"):
        LeaseStore(sqlite_url(path), VERSION_1_NETWORK).open(0.0)
    assert dump(path) == before


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_a_newer_store_is_refused_and_left_alone(opened: LeaseStore, path: Path) -> None:
    opened.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE proxyservice SET schema_version = 99")
        connection.commit()
    before = dump(path)
    for use in (LeaseStore(sqlite_url(path), NETWORK).open, lambda _: reading(path)):
        message = (
            f"newer version wrote it .schema 99, this program knows {SCHEMA_VERSION}.; upgrade"
        )
        with pytest.raises(StoreError, match=message):
            use(0.0)
    assert dump(path) == before
    opened._engine = None


# ------------------------------------------------------------------- failures


def spoilt(path: Path, how: str) -> None:
    if how == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "directory":
        path.mkdir()
    elif how == "other":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE recipes (name TEXT)")
    else:  # a store with a page of noise in the middle
        store = LeaseStore(sqlite_url(path), NETWORK)
        store.open(1.0)
        store.write(Batch(rows=[Row(n, "live", claimed(n % 250), 9e9) for n in range(3000)]))
        store.close()
        content = bytearray(path.read_bytes())
        for page in range(len(content) // 4096 - 20, len(content) // 4096 - 2):
            content[page * 4096 : page * 4096 + 2000] = os.urandom(2000)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("garbage", "not a database; restore a backup, or move it away"),
        ("empty", "it is empty, and was not; restore it, or remove it to start anew"),
        ("directory", "is no file; move it away"),
        ("other", "the database of something else, with recipes"),
        ("corrupt", "malformed.*damaged: restore a backup, or move it away"),
    ],
)
def test_what_cannot_be_opened_is_one_line_and_stays_as_it_is(
    path: Path, how: str, said: str
) -> None:
    spoilt(path, how)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError, match=said) as caught:
        LeaseStore(sqlite_url(path), NETWORK).open(0.0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if how != "other":  # that one goes to write-ahead logging
        assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="check that its directory exists"):
        LeaseStore(sqlite_url(tmp_path / "no" / "db"), NETWORK).open(0.0)


def test_locked_by_another_program(
    opened: LeaseStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.close()
    monkeypatch.setattr(store_module, "LOCKED_SECONDS", 0.01)
    opened.open(0.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked; another program uses it: end that one"):
            opened.write(Batch(rows=ROWS))
        other.execute("ROLLBACK")
        opened.write(Batch(rows=ROWS))


@pytest.mark.process
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user who may not write")
def test_a_store_that_may_not_be_written(path: Path, opened: LeaseStore, tmp_path: Path) -> None:
    opened.close()
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == tmp_path.owner() and directory.stat().st_mode & 0o077 == 0:
            directory.chmod(0o755)
    path.chmod(0o644)
    program = f"""
        import os
        from proxyservice.errors import StoreError
        from proxyservice.leases.store import LeaseStore
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            LeaseStore({sqlite_url(path)!r}, 1).open(0.0)
        except StoreError as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30
    )
    assert "readonly database; let this user write to it and to its directory" in run.stdout, run
    tmp_path.chmod(0o700)  # so that not even its name can be seen
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30
    )
    assert "Permission denied" in run.stdout, run
    assert "; let this user read and write there" in run.stdout
    opened.open(1.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(directory)]
    if os.getuid() != 0 or shutil.which("mount") is None or subprocess.run(mount).returncode:
        pytest.skip("a small file system can only be had by root")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.process
def test_t22_a_full_file_system_loses_no_acknowledged_lease(small_disk: Path) -> None:
    path = small_disk / "leases.sqlite"
    with store_thread():
        run = Run(on_disk(path), range(1, 20_000))
        leased: dict[Owner, int] = {}
        for number in range(20_000):
            owner = proved(number % 250, "x" * 500 + str(number))
            try:
                leased[owner] = run.lease(owner).lease.port
            except RefusedError:
                break
        assert run.registry.store_failing
        assert 100 < len(leased) < 10_000
        for owner in list(leased)[:50]:
            assert run.lease(owner).lease.port == leased[owner], "what is there is served"
        run.store.close()  # without a stop, as the kernel does it for a process that is killed
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    with store_thread():
        again = Run(on_disk(path), range(1, 20_000))
        assert {owner: again.port_of(owner) for owner in leased} == leased
        assert again.lease(claimed(1)).fresh
        again.stop()
