"""`proxyservice backup` and `restore`: all of the state, whole or not at all, and nothing else."""

from __future__ import annotations

import io
import json
import os
import random
import sqlite3
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxyservice import tap
from proxyservice.backup import archive, restoring, saving
from proxyservice.leases import copying
from proxyservice.leases.lease import Identity, LeaseTimes, Owner
from proxyservice.leases.reading import StoredLeases
from proxyservice.leases.schema import SCHEMA_VERSION
from proxyservice.leases.store import LeaseStore, sqlite_url
from proxyservice.leases.table import EPOCH_SHIFT
from proxyservice.node.cli import main
from proxyservice.node.keys import create_key
from proxyservice.running import Running
from proxyservice.server.relay_id import relay_id
from proxyservice.state import RESTORING
from proxyservice.state_lock import StateLock
from proxyservice.tap import FILE_OPTIONS, make_state_directory
from proxyservice.tap import Options as ServiceOptions
from tests.leases.harness import Run, result, store_thread
from tests.test_ownership import SOMEBODY, as_root

NET = 7
STARTED = 1_700_000_000.0
TIMES = LeaseTimes(quarantine=600.0)


def owner(letter: str) -> Owner:
    return Owner(Identity(True, letter.encode() * 32), "web")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Run]:
    """A service that runs: a live lease, a remembered one, and a port in quarantine."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    relay_id(directory)
    with store_thread():
        store = LeaseStore(sqlite_url(directory / "leases.sqlite"), NET)
        run = Run(store, range(20000, 20008), wall=STARTED, times=TIMES)
        run.lease(owner("a"))
        run.registry.holding_ended(owner("b"), run.lease(owner("b")).generation)
        result(run.registry.release(owner("c"), run.lease(owner("c")).generation))
        run.pass_time(61, 1)
        yield run
        run.stop()


@pytest.fixture
def state(service: Run, tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def made(state: Path, tmp_path: Path) -> Path:
    """A backup of it."""
    file = tmp_path / "made"
    assert ran("backup", file, state).exit_code == 0
    return file


def ran(command: str, file: object, state: Path) -> Result:
    return CliRunner().invoke(main, [command, str(file), "--state-dir", str(state)])


def refused(command: str, file: object, state: Path, said: str = "") -> str:
    """It ends with one line, and nothing is changed below the directory of both."""
    root = state.parent
    before = seen(root)
    done = ran(command, file, state)
    assert done.exit_code in (1, 2), done.output
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr
    assert seen(root) == before
    return done.stderr


def seen(root: Path) -> dict[str, Any]:
    """All names, kinds and contents; the pages of a running store's index aside."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() and not path.name.endswith("-shm") else b"",
        )
        for path in sorted(root.rglob("*"))
    }


def rows(state: Path) -> Any:
    stored = StoredLeases(sqlite_url(state / "leases.sqlite"), NET)
    try:
        return stored.listing()
    finally:
        stored.close()


def epoch(state: Path) -> int:
    with closing(sqlite3.connect(state / "leases.sqlite")) as connection:
        ((found,),) = connection.execute("SELECT epoch FROM proxyservice").fetchall()
        return int(found)


# ------------------------------------------------------------------------- all of it


def test_all_of_the_state_is_there_again(state: Path, tmp_path: Path) -> None:
    create_key(state / "node.key")
    (state / "known-relays").write_text("relay:6008 " + "ab" * 32 + "\n")
    (state / "tls").mkdir()
    (state / "tls" / "relay.key").write_text("a key kept here")
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    (elsewhere / "privkey1.pem").write_text("a key")
    (elsewhere / "privkey.pem").symlink_to("privkey1.pem")
    (elsewhere / "policy.toml").write_text("[default]\n")
    files = {
        "tls-key": str(elsewhere / "privkey.pem"),
        "policy": str(elsewhere / "policy.toml"),
        "tls-cert": str(state / "tls" / "relay.key"),
    }
    Running(sqlite_url(state / "leases.sqlite"), files).write(state)
    done = ran("backup", tmp_path / "relay.backup", state)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"options/tls-key/privkey.pem was {elsewhere}/privkey.pem (--tls-key)\n" in done.stdout
    assert (tmp_path / "relay.backup").stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"

    new = tmp_path / "a" / "b" / "new"
    done = ran("restore", tmp_path / "relay.backup", new)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{new}/restored/tls-key/privkey.pem was {elsewhere}/privkey.pem" in done.stdout
    for name in ("relay.secret", "node.key", "known-relays", "tls/relay.key"):
        assert (new / name).read_bytes() == (state / name).read_bytes()
    assert (new / "restored" / "tls-key" / "privkey.pem").read_text() == "a key"
    assert (new / "restored" / "policy" / "policy.toml").read_text() == "[default]\n"
    for path in new.rglob("*"):
        assert not path.is_symlink()
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert rows(new) == rows(state)
    heartbeat, found = rows(new)
    assert heartbeat >= STARTED + 60
    assert [row.state for row in found] == ["live", "remembered", "quarantined"]
    assert (state / "leases.sqlite-wal").stat().st_size, "some of it was only in the log"
    assert not (new / "leases.sqlite-wal").exists()
    history = sqlite3.connect(new / "leases.sqlite").execute("SELECT outcome FROM history")
    assert history.fetchall() == [("released",)]


def test_a_service_that_has_stopped_is_backed_up_the_same(
    service: Run, state: Path, tmp_path: Path
) -> None:
    service.stop()
    assert not (state / "leases.sqlite-wal").exists()
    before = seen(state)
    assert ran("backup", tmp_path / "made", state).exit_code == 0
    assert seen(state) == before, "nothing is written there"
    assert ran("restore", tmp_path / "made", tmp_path / "new").exit_code == 0
    assert rows(tmp_path / "new") == rows(state)


def test_what_is_written_meanwhile_is_in_it_whole_or_not_at_all(
    service: Run, state: Path, tmp_path: Path
) -> None:
    """A lease and its row of the history change in one transaction."""
    file, new = tmp_path / "made", tmp_path / "new"
    copy_store = copying.copy_store

    def while_it_is_busy(source: Path, target: Path) -> None:
        grant = service.lease(owner("d"))
        copy_store(source, target)
        result(service.registry.release(owner("d"), grant.generation))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "copy_store", while_it_is_busy)
        assert ran("backup", file, state).exit_code == 0
    assert ran("restore", file, new).exit_code == 0
    assert "live" in [row.state for row in rows(new)[1] if row.owner == owner("d")]
    assert "live" not in [row.state for row in rows(state)[1] if row.owner == owner("d")]


def test_a_service_that_begins_during_the_copy_is_seen(
    service: Run, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.stop()
    tries: list[int] = []
    seen_of = copying._seen

    def changing(path: Path) -> Any:
        tries.append(1)
        return (len(tries), *seen_of(path)) if len(tries) < 4 else seen_of(path)

    monkeypatch.setattr(copying, "_seen", changing)
    copying.copy_store(state / "leases.sqlite", tmp_path / "copy")
    assert len(tries) == 6, "the third time it was the same before and after"


@pytest.mark.parametrize("place", ["elsewhere", "inside"])
def test_a_store_elsewhere_comes_into_the_state_directory(
    state: Path, tmp_path: Path, place: str
) -> None:
    store = (tmp_path if place == "elsewhere" else state) / "other.sqlite"
    (state / "leases.sqlite").rename(store)
    (state / "leases.sqlite-wal").rename(store.with_name("other.sqlite-wal"))
    Running(sqlite_url(store)).write(state)
    done = ran("backup", tmp_path / "made", state)
    assert (done.exit_code, done.stderr) == (0, "")
    done = ran("restore", tmp_path / "made", tmp_path / "new")
    assert done.exit_code == 0
    if place == "inside":
        assert sorted(os.listdir(tmp_path / "new")) == ["lock", "other.sqlite", "relay.secret"]
        return
    assert len(rows(tmp_path / "new")[1]) == 3
    assert f"which were in {store} (--store): start without --store" in done.stdout


def test_a_store_in_memory_is_told_and_the_rest_saved(state: Path, tmp_path: Path) -> None:
    Running("memory:").write(state)
    done = ran("backup", tmp_path / "made", state)
    assert done.exit_code == 0
    assert done.stderr == "not in the backup: leases, for there are none on disk\n"
    assert ran("restore", tmp_path / "made", tmp_path / "new").exit_code == 0
    assert sorted(os.listdir(tmp_path / "new")) == ["lock", "relay.secret"]


def test_what_is_no_file_or_too_large_is_left_out_and_said(state: Path, tmp_path: Path) -> None:
    os.mkfifo(state / "pipe")
    (state / "link").symlink_to("/etc/passwd")
    (state / "folder").symlink_to("/etc")
    with (state / "large").open("wb") as file:
        file.truncate(archive.FILE_LIMIT_BYTES + 1)
    (state / "two\nlines").write_text("")
    (state / ".relay.secret.17").write_text("half of one")
    (state / "restored" / "policy").mkdir(parents=True)
    (state / "restored" / "policy" / "policy.toml").write_text("of an earlier restore")
    Running("", {"tls-key": "/nowhere/relay.key"}).write(state)
    done = ran("backup", tmp_path / "made", state)
    assert done.exit_code == 0
    assert len(done.stderr.splitlines()) == 7, done.stderr
    with tarfile.open(tmp_path / "made") as opened:
        names = opened.getnames()
    assert names == ["manifest.json", "state/leases.sqlite", "state/relay.secret"]


@as_root
def test_root_restores_for_whom_the_directory_belongs_to(made: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    os.chown(new, SOMEBODY, SOMEBODY)
    link = tmp_path / "link"
    link.symlink_to(new)
    assert ran("restore", made, link).exit_code == 0
    assert {path.stat().st_uid for path in [new, *new.rglob("*")]} == {SOMEBODY}
    assert ran("backup", tmp_path / "again", link).exit_code == 0


# ------------------------------------------------------------------- generations rise


def test_generations_rise_though_the_old_relay_ran_on(
    service: Run, state: Path, made: Path, tmp_path: Path
) -> None:
    before = epoch(state)
    restoring.restore(made, tmp_path / "first", 0.0)  # a clock that is behind
    first = epoch(tmp_path / "first")
    assert first >= before + (1 << 20), "a start each second for twelve days"
    with archive_of(made) as (manifest, _):
        made_at = manifest["made"]
    restoring.restore(made, tmp_path / "second", made_at + 86400)
    assert epoch(tmp_path / "second") > first + 86400, "the first may have been started as often"
    restoring.restore(made, tmp_path / "third", made_at + 1e12)
    most = epoch(tmp_path / "third")
    assert most << EPOCH_SHIFT < 1 << 64
    store = LeaseStore(sqlite_url(tmp_path / "second" / "leases.sqlite"), NET)
    again = Run(store, range(20000, 20008), wall=STARTED + 5000, times=TIMES)
    grant = again.lease(owner("a"))
    assert grant.lease.port == 20000
    assert grant.generation > (first + 86400) << EPOCH_SHIFT
    again.stop()


def test_what_a_restore_has_put_aside_is_saved_where_an_option_names_it(
    state: Path, tmp_path: Path
) -> None:
    aside = state / "restored" / "policy" / "policy.toml"
    aside.parent.mkdir(parents=True)
    aside.write_text("[default]\n")
    elsewhere = tmp_path / "policy.toml"
    elsewhere.write_text("[other]\n")
    # named crosswise: what comes from elsewhere would have the name of what is kept
    Running("", {"token-file": str(aside), "policy": str(elsewhere)}).write(state)
    assert ran("backup", tmp_path / "made", state).stderr == ""
    assert ran("restore", tmp_path / "made", tmp_path / "new").exit_code == 0
    found = tmp_path / "new" / "restored" / "policy"
    assert (found / "policy.toml").read_text() == "[default]\n"
    assert (found / "policy.toml-2").read_text() == "[other]\n"


def test_an_epoch_that_would_not_fit_is_refused(state: Path, tmp_path: Path) -> None:
    with sqlite3.connect(state / "leases.sqlite") as connection:
        connection.execute("UPDATE proxyservice SET epoch = 4294967290")
    connection.close()
    assert ran("backup", tmp_path / "made", state).exit_code == 0
    refused("restore", tmp_path / "made", tmp_path / "new", "its epoch is 4294967290")


# ------------------------------------------------------------------------ where to


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("-", "is no file"),
        ("", "is no file"),
        ("/dev/stdout", "is there already"),
        ("/dev/tty", "is there already"),
        ("/dev/null", "is there already"),
        ("/nowhere/at/all", "No such file"),
        ("state/inside", "would be lost together"),
        ("state", "is there already"),
        ("link", "is there already"),
        ("x" * 300, "too long"),
    ],
)
def test_a_backup_is_a_new_file(state: Path, tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    name = file if file.startswith(("/", "-")) or not file else str(tmp_path / file)
    refused("backup", name, state, said)


@as_root
def test_a_full_disk_for_the_backup_is_named_as_that(state: Path, tmp_path: Path) -> None:
    """And not as the disk of the store, which has room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        said = refused("backup", disk / "relay.backup", state)
        assert "the disk that the backup goes to is full" in said
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_store_of_the_version_before_is_saved_and_restored(tmp_path: Path) -> None:
    """Before an upgrade there is nothing newer that could read it."""
    state, copy = tmp_path / "state", tmp_path / "copy"
    state.mkdir(mode=0o700)
    relay_id(state)
    older = Path(__file__).parent / "leases" / "store_version_2.sql"
    with closing(sqlite3.connect(state / "leases.sqlite")) as connection:
        connection.executescript(older.read_text())
    file = tmp_path / "relay.backup"
    assert ran("backup", file, state).exit_code == 0
    assert ran("restore", file, copy).exit_code == 0
    stored = "SELECT * FROM leases ORDER BY port"
    with (
        closing(sqlite3.connect(state / "leases.sqlite")) as before,
        closing(sqlite3.connect(copy / "leases.sqlite")) as after,
    ):
        rows = before.execute(stored).fetchall()
        assert rows
        assert after.execute(stored).fetchall() == rows


def test_a_backup_is_never_overwritten(state: Path, made: Path) -> None:
    refused("backup", made, state, "is there already")


def test_a_backup_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("backup", tmp_path / "made", tmp_path / "empty", "there is nothing to back up")
    refused("backup", tmp_path / "made", tmp_path / "no", "there is no state directory")


def test_leases_without_their_relay_or_without_their_store(state: Path, tmp_path: Path) -> None:
    (state / "relay.secret").unlink()
    refused("backup", tmp_path / "made", state, "there is no relay.secret")
    Running("sqlite:////nowhere/x").write(state)
    refused("backup", tmp_path / "made", state, "there is no store /nowhere/x")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"store": 3}', '{"files": [3]}', "[" * 100_000])
def test_a_damaged_list_of_what_runs(state: Path, tmp_path: Path, text: str) -> None:
    (state / "running.json").write_text(text)
    refused("backup", tmp_path / "made", state, "running.json is damaged")


def test_without_hard_links_it_is_a_new_file_all_the_same(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert ran("backup", tmp_path / "made", state).exit_code == 0
    refused("backup", tmp_path / "made", state)
    assert ran("restore", tmp_path / "made", tmp_path / "new").exit_code == 0


def test_it_is_restored_into_an_empty_directory_alone(
    made: Path, state: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    (new / "kept").write_text("mine")
    refused("restore", made, new, "is not empty, there is 'kept'")
    (new / "kept").unlink()
    lock = StateLock(new)
    lock.take()
    refused("restore", made, new, f"in use by process {os.getpid()}")
    lock.release()
    (new / RESTORING).mkdir()
    refused("restore", made, new, "only half restored")
    with pytest.raises(Exception, match="only half restored"):
        make_state_directory(str(new))
    (new / RESTORING).rmdir()
    new.chmod(0o777)
    refused("restore", made, new, "other users can write")
    new.chmod(0o700)
    assert ran("restore", made, new).exit_code == 0
    refused("restore", made, new, "is not empty")
    refused("restore", made, made, str(made))
    make_state_directory(str(new))


@pytest.mark.parametrize("step", range(1, 5))
def test_a_restore_that_fails_halfway_leaves_nothing_and_a_killed_one_cannot_be_started(
    made: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the step: every rename, and what is before and behind them."""
    new, renames = tmp_path / "new", []
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        renames.append(path)
        if len(renames) == step:
            assert (new / RESTORING).exists()
            with pytest.raises(Exception, match="only half restored"):
                make_state_directory(str(new))
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    if step <= 2:  # there are so many
        refused("restore", made, new, "No space left on device")
    else:
        assert ran("restore", made, new).exit_code == 0
        assert len(renames) == 2


# ---------------------------------------------------------------- what is no backup


@pytest.fixture
def archive_parts(made: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with archive_of(made) as found:
        return found


class archive_of:
    """The manifest and the contents of a backup, as Python's own tarfile reads them."""

    def __init__(self, file: Path) -> None:
        with tarfile.open(file) as opened:
            contents = {one.name: opened.extractfile(one).read() for one in opened}  # type: ignore[union-attr]
        self.found = json.loads(contents.pop("manifest.json")), contents

    def __enter__(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        return self.found

    def __exit__(self, *error: object) -> None:
        pass


Change = Callable[[dict[str, Any], dict[str, bytes], list[tarfile.TarInfo]], None]


def forged(
    file: Path,
    parts: tuple[dict[str, Any], dict[str, bytes]],
    change: Change,
    form: int = tarfile.USTAR_FORMAT,
) -> None:
    """An archive that tarfile writes, with a manifest that fits to what it holds."""
    manifest, contents = parts
    members = [tarfile.TarInfo(name) for name in contents]
    change(manifest, contents, members)
    manifest["files"] = manifest.get("files") or []
    text = json.dumps(manifest).encode()
    with tarfile.open(file, "w", format=form) as opened:
        head = tarfile.TarInfo("manifest.json")
        head.size = len(text)
        opened.addfile(head, io.BytesIO(text))
        for member in members:
            content = contents.get(member.name, b"")
            member.size = len(content) if member.isreg() else 0
            opened.addfile(member, io.BytesIO(content))


def nothing(*_: object) -> None:
    pass


def renamed(to: str) -> Change:
    def change(manifest: Any, contents: Any, members: Any) -> None:
        for entry, member in zip(manifest["files"], members, strict=True):
            if entry["name"] == "state/relay.secret":
                contents[to] = contents.pop(entry["name"])
                entry["name"] = member.name = to

    return change


def kind(of: bytes, link: str = "/etc/passwd") -> Change:
    def change(manifest: Any, contents: Any, members: Any) -> None:
        members[-1].type, members[-1].linkname = of, link

    return change


def more(name: str) -> Change:
    def change(manifest: Any, contents: Any, members: Any) -> None:
        members.append(tarfile.TarInfo(name))

    return change


def said(**fields: Any) -> Change:
    def change(manifest: Any, contents: Any, members: Any) -> None:
        manifest["files"][-1].update(fields)

    return change


def top(**fields: Any) -> Change:
    def change(manifest: Any, contents: Any, members: Any) -> None:
        manifest.update(fields)

    return change


def database(content: bytes) -> Change:
    def change(manifest: Any, contents: Any, members: Any) -> None:
        contents["state/leases.sqlite"] = content
        manifest["files"][0].update(size=len(content), sha256=sha256(content).hexdigest())

    return change


FORGED: dict[str, Change] = {
    "up": renamed("state/../../stolen"),
    "up at the end": renamed("state/x/.."),
    "absolute": renamed("/tmp/stolen"),
    "absolute behind": renamed("state//etc/passwd"),
    "elsewhere": renamed("stolen"),
    "a dot": renamed("state/./x"),
    "nowhere": renamed("state/"),
    "no folder": renamed("state"),
    "backslashes": renamed("state/..\\..\\x"),
    "a line end": renamed("state/a\nb"),
    "an escape": renamed("state/a\x1b[31m"),
    "the lock": renamed("state/lock"),
    "a log beside the store": renamed("state/leases.sqlite-wal"),
    "hidden": renamed("state/.restoring"),
    "file and folder": renamed("state/leases.sqlite/x"),
    "a symbolic link": kind(tarfile.SYMTYPE),
    "a link within": kind(tarfile.SYMTYPE, "relay.secret"),
    "a hard link": kind(tarfile.LNKTYPE),
    "a device": kind(tarfile.CHRTYPE),
    "a pipe": kind(tarfile.FIFOTYPE),
    "a folder": kind(tarfile.DIRTYPE),
    "one more": more("state/stolen"),
    "one twice": more("state/relay.secret"),
    "a wrong size": said(size=31),
    "a negative size": said(size=-1),
    "a size of no bytes": said(size=1.5),
    "an endless size": said(size=1 << 80),
    "a gigantic file": said(size=archive.FILE_LIMIT_BYTES + 1),
    "a wrong sum": said(sha256="0" * 64),
    "a number for a sum": said(sha256=3),
    "another field": said(owner="root"),
    "a name of no text": said(name=3),
    "a later format": top(format=2),
    "no format": top(format=None),
    "a nonsense format": top(format=[1]),
    "no time": top(made=None),
    "a text for a time": top(made="12"),
    "a truth for a format": top(format="1"),
    "format 0": top(format=0),
    "a list of what runs": renamed("state/running.json"),
    "an endless time": top(made=1e300),
    "no number for a time": top(made=float("nan")),
    "another database": top(database="state/nothing"),
    "a database of no name": top(database=3),
    "no files": top(files=None),
    "too many files": top(
        files=[{"name": f"state/{n}", "size": 0, "sha256": ""} for n in range(1001)]
    ),
    "another word": top(else_=1),
    "no database": database(b"x" * 4096),
    "an empty database": database(b""),
    "half a database": database(b"SQLite format 3\0" + bytes(2000)),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_archive_is_one_line_and_nothing_changes(
    archive_parts: Any, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "forged"
    forged(file, archive_parts, FORGED[how])
    refused("restore", file, tmp_path / "new", str(file) if "file and folder" not in how else "")
    (tmp_path / "there").mkdir(mode=0o700)
    refused("restore", file, tmp_path / "there")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_need_other_headers_are_refused(
    archive_parts: Any, tmp_path: Path, form: int
) -> None:
    file = tmp_path / "forged"
    forged(file, archive_parts, renamed("state/" + "d" * 60 + "/" + "x" * 90), form)
    refused("restore", file, tmp_path / "new", str(file))


def test_what_tarfile_writes_like_us_is_taken(archive_parts: Any, tmp_path: Path) -> None:
    """The forgeries are refused for what is forged in them."""
    forged(tmp_path / "fair", archive_parts, nothing)
    done = ran("restore", tmp_path / "fair", tmp_path / "new")
    assert done.exit_code == 0, done.output


def changed_store(made: Path, statement: str, tmp_path: Path) -> bytes:
    path = tmp_path / "changed.sqlite"
    with archive_of(made) as (_, contents):
        path.write_bytes(contents["state/leases.sqlite"])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (f"UPDATE proxyservice SET schema_version = {SCHEMA_VERSION + 1}", "a newer version"),
        ("DROP TABLE leases", "something else"),
        ("UPDATE proxyservice SET epoch = 'x'", ""),
        ("UPDATE proxyservice SET epoch = 1e300", ""),
    ],
)
def test_leases_that_cannot_be_used(
    made: Path, archive_parts: Any, tmp_path: Path, statement: str, why: str
) -> None:
    content = changed_store(made, statement, tmp_path)
    forged(tmp_path / "forged", archive_parts, database(content))
    refused("restore", tmp_path / "forged", tmp_path / "new", why)


def test_an_older_schema_is_restored_and_a_damaged_page_is_not(
    archive_parts: Any, tmp_path: Path
) -> None:
    path = tmp_path / "old.sqlite"
    script = Path(__file__).parent / "leases" / "store_version_1.sql"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script.read_text())
    content = path.read_bytes()
    path.unlink()
    forged(tmp_path / "old", archive_parts, database(content))
    assert ran("restore", tmp_path / "old", tmp_path / "new").exit_code == 0
    with closing(sqlite3.connect(tmp_path / "new" / "leases.sqlite")) as connection:
        ((version, now),) = connection.execute("SELECT schema_version, epoch FROM proxyservice")
        assert (version, now > 1 << 20) == (1, True)


OTHER_FILES = {
    "empty": b"",
    "short": b"x",
    "text": b"no backup at all\n" * 100,
    "zeros": bytes(10_000),
    "gzip": b"\x1f\x8b\x08" + bytes(1000),
    "sqlite": b"SQLite format 3\0" + bytes(8000),
}


@pytest.mark.parametrize("what", OTHER_FILES)
def test_another_file_is_no_backup(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_bytes(OTHER_FILES[what])
    refused("restore", tmp_path / "file", tmp_path / "new", str(tmp_path / "file"))


@pytest.mark.parametrize("file", ["nothing", "folder", "/dev/zero", "/dev/null", "x" * 300, "-"])
def test_what_cannot_be_read(tmp_path: Path, file: str) -> None:
    (tmp_path / "folder").mkdir()
    refused("restore", file if file == "-" else tmp_path / file, tmp_path / "new")


def test_a_gigantic_file_is_refused_at_its_beginning(made: Path, tmp_path: Path) -> None:
    """A terabyte that takes no room on disk; what is read of it is a few blocks."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    refused_alone(tmp_path / "sparse", tmp_path, "is no backup")
    content = bytearray(made.read_bytes())
    (tmp_path / "long").write_bytes(content)
    with (tmp_path / "long").open("r+b") as file:
        file.truncate(1 << 40)
        file.seek(1 << 20)
        file.write(b"!")
    refused_alone(tmp_path / "long", tmp_path, "something follows its end")


def refused_alone(file: Path, tmp_path: Path, why: str) -> None:
    """Without reading all of it before and after."""
    done = ran("restore", file, tmp_path / "new")
    assert done.exit_code == 1
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_no_room_is_said_before_anything_is_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "ROOM_BYTES", 1 << 60)
    refused("restore", made, tmp_path / "new", "has room for")


def test_cut_short_anywhere_or_with_any_bit_changed(made: Path, tmp_path: Path) -> None:
    """Half written, or damaged: never more than a refusal, never another state."""
    content = made.read_bytes()
    chosen = random.Random(11)
    cuts = {0, 1, 511, 512, 513, len(content) - 1, len(content) - 512, len(content) - 1024}
    cuts |= {chosen.randrange(len(content)) for _ in range(12)}
    for cut in cuts:
        (tmp_path / "cut").write_bytes(content[:cut])
        refused("restore", tmp_path / "cut", tmp_path / "new", str(tmp_path / "cut"))
    for place in [chosen.randrange(len(content)) for _ in range(40)]:
        changed = bytearray(content)
        changed[place] ^= 1 << chosen.randrange(8)
        (tmp_path / "cut").write_bytes(changed)
        done = ran("restore", tmp_path / "cut", tmp_path / "new")
        if done.exit_code == 0:  # a time or a version in the manifest, or filling bytes
            same = (tmp_path / "new" / "relay.secret").read_bytes() in content
            assert same, place
            for path in sorted((tmp_path / "new").iterdir()):
                path.unlink()
            (tmp_path / "new").rmdir()
        else:
            assert done.stderr.count("\n") == 1
            assert not (tmp_path / "new").exists()


# --------------------------------------------------------------- what the service tells


def test_every_option_that_names_a_file_is_in_the_list() -> None:
    """In the table of docs/operations.md such an option is written `--x FILE`."""
    docs = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    names = {str(row[0]) for row in ServiceOptions.optParameters if f"`--{row[0]} FILE`" in docs}
    assert names == set(FILE_OPTIONS)


@pytest.mark.parametrize(
    ("gone", "store", "warned"),
    [
        ("", "", []),
        ("relay.secret", "", [tap.NEW_IDENTITY]),
        ("", "memory:", [tap.LEASES_NOT_USED]),
        ("", "sqlite:///{}/other", [tap.LEASES_NOT_USED]),
        ("leases.sqlite", "sqlite:///{}/other", []),
    ],
)
def test_a_start_with_half_of_a_backup_is_warned_of(
    state: Path, gone: str, store: str, warned: list[str]
) -> None:
    if gone:
        (state / gone).unlink()
    options = ServiceOptions()
    options.parseOptions([f"--state-dir={state}", f"--store={store.format(state)}"])
    assert options["warnings"] == warned


def test_the_list_is_private_and_whole(tmp_path: Path) -> None:
    running = Running("memory:", {"policy": "/etc/p"})
    running.write(tmp_path)
    assert stat.S_IMODE((tmp_path / "running.json").stat().st_mode) == 0o600
    assert Running.read(tmp_path) == running
    assert Running.read(tmp_path / "nothing") == Running()
