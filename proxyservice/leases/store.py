"""Rows that survive: SQLite through SQLAlchemy Core, one connection, one thread.

Knows tables and files; what the times in a row mean is `rows.py`'s.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from proxyservice.errors import StartError, StoreError
from proxyservice.leases.lease import Identity, Owner, Shown
from proxyservice.leases.rows import Batch, PastLease, Row
from proxyservice.leases.schema import SCHEMA_VERSION, clock, history, leases, prepare
from proxyservice.ownership import check_directory, check_own

LOCKED_SECONDS = 2.0
"""How long to wait for another program's lock; a node gives up after 3 s (docs/protocol.md)."""

MOST_PAST_LEASES = 1_000_000
"""Beyond these the oldest of the history go, some 200 MB: making leases must not fill a disk."""

FORGOTTEN_AT_ONCE = 10_000
"""Rows of the history that go with one heartbeat; more would hold grants up."""

FORGOTTEN_FOR_EACH = 2
"""Rows that go for each new one: so the history never grows beyond its bounds, and comes back to
them when they are made narrower."""

FILE_NAME = "leases.sqlite"

LONGEST_PATH = 500
"""SQLite's own limit, less its ends of names: it takes 512 bytes."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an opened store holds."""

    epoch: int  # of this start; already committed
    heartbeat: float  # wall time when the last run was last alive
    rows: list[Row]  # least recently heard first
    other_networks: list[int] = field(default_factory=list)
    """When there are no rows: the network ids that have some."""


def network_ids(connection: sa.Connection) -> list[int]:
    """Those that have leases or quarantined ports."""
    chosen = sa.select(leases.c.network_id).distinct().order_by(leases.c.network_id)
    return list(connection.execute(chosen).scalars())


def store_url(text: str, directory: Path) -> str:
    """What `--store` means, with an absolute path. Raises ValueError.

    `sqlite:` is a file in the state directory, `sqlite:///path` another, `memory:` forgets.
    """
    if text == "memory:":
        return text
    if text in ("", "sqlite:"):
        return sqlite_url(directory / FILE_NAME)
    path = text.removeprefix("sqlite:///")
    if path in (text, ""):
        raise ValueError(f"{text!r} is no store; sqlite:, sqlite:///path or memory:")
    if len(path) > LONGEST_PATH:
        raise ValueError("the path of the store is too long")
    return sqlite_url(Path(path))


def sqlite_url(path: Path) -> str:
    """The URL of a file."""
    return f"sqlite:///{path.absolute()}"


class LeaseStore:
    """``url`` as `store_url` returns it. All methods block; use them from one thread.

    Whatever goes wrong is a StoreError of one line that says what to do.
    """

    def __init__(self, url: str, network_id: int) -> None:
        self._network_id = network_id
        self._path = None if url == "memory:" else Path(url.removeprefix("sqlite:///"))
        self._engine: sa.Engine | None = None
        self._epoch = 0
        self.is_taken = False
        """Another service has opened it since: what is on disk is no longer this one's."""

    def open(self, wall_now: float) -> Loaded:
        """Create or check the tables, raise and commit the epoch, read all rows."""
        path = self._path
        with self._errors("opened"):
            existed = path is None or path.exists()
            if path is not None:
                _refuse_others(path)
            if path is not None and existed and path.stat().st_size == 0:
                raise StoreError("it is empty, and was not; restore it, or remove it to start anew")
            self._engine = engine_of(lambda: connect(path or ":memory:"))
            try:
                return self._open(self._engine, wall_now)
            except BaseException:
                self.close()
                if path is not None and not existed and path.exists() and not path.stat().st_size:
                    path.unlink()  # our own attempt
                raise

    def _open(self, engine: sa.Engine, wall_now: float) -> Loaded:
        with engine.begin() as connection:
            prepare(connection)
            own = clock.c.network_id == self._network_id
            before = connection.execute(sa.select(clock).where(own)).one_or_none()
            epoch = 1 if before is None else before.epoch + 1
            heartbeat = wall_now if before is None else before.heartbeat
            row = {
                "network_id": self._network_id,
                "schema_version": SCHEMA_VERSION,
                "epoch": epoch,
                "heartbeat": heartbeat,
            }
            upsert = insert(clock).on_conflict_do_update(["network_id"], set_=row)
            connection.execute(upsert, row)
            self._epoch = epoch
            rows = read_rows(connection, self._network_id)
            others = [] if rows else network_ids(connection)
            return Loaded(epoch, heartbeat, rows, others)

    def write(self, batch: Batch) -> None:
        """Commit all of it, or nothing; nothing once another service has opened the store."""
        with self._errors("written"):
            assert self._engine is not None, "not open"
            with self._engine.begin() as connection:
                self._check_epoch(connection)
                self._write(connection, batch)

    def _check_epoch(self, connection: sa.Connection) -> None:
        """What this start knows of the leases holds until the next start of any service."""
        own = clock.c.network_id == self._network_id
        if connection.execute(sa.select(clock.c.epoch).where(own)).scalar() != self._epoch:
            self.is_taken = True
            raise StoreError("another service has opened it since: give each a --store of its own")

    def _write(self, connection: sa.Connection, batch: Batch) -> None:
        own = {"network_id": self._network_id}
        if batch.gone:
            connection.execute(_DELETE, [{"n": self._network_id, "p": port} for port in batch.gone])
        if batch.rows:
            connection.execute(_UPSERT, [own | _row_values(row) for row in batch.rows])
        if batch.past:
            connection.execute(_PAST, [own | _past_values(past) for past in batch.past])
            self._forget(connection, batch.forget_before, FORGOTTEN_FOR_EACH * len(batch.past))
        if batch.heartbeat is not None:
            of_network = clock.c.network_id == self._network_id
            connection.execute(sa.update(clock).where(of_network), {"heartbeat": batch.heartbeat})
            self._forget(connection, batch.forget_before, FORGOTTEN_AT_ONCE)

    def _forget(self, connection: sa.Connection, before: float, most: int) -> None:
        newest = connection.execute(sa.select(sa.func.max(history.c.id))).scalar() or 0
        old = (history.c.network_id == self._network_id) & (history.c.until < before)
        for too_much in (old, history.c.id <= newest - MOST_PAST_LEASES):
            some = sa.select(history.c.id).where(too_much).limit(most)
            connection.execute(sa.delete(history).where(history.c.id.in_(some)))

    def close(self) -> None:
        """Let go of the file."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        with store_errors(self._path, what):
            yield


def _refuse_others(path: Path) -> None:
    """Raises StoreError where other users could say who has which port."""
    try:
        check_directory(path.parent)  # the log beside it is written there, too
        check_own(path)
    except StartError as error:
        raise StoreError(str(error)) from None


def engine_of(connection: Callable[[], sqlite3.Connection]) -> sa.Engine:
    """One connection for ever, and transactions that begin when we say so."""
    engine = sa.create_engine("sqlite://", creator=connection, poolclass=sa.pool.StaticPool)
    # Python's sqlite3 would begin by itself, and not before statements that change tables.
    sa.event.listen(engine, "begin", lambda started: started.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def connect(path: Path | str) -> sqlite3.Connection:
    """For reading and writing, created when it does not exist. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path, timeout=LOCKED_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # Synchronous FULL: what was acknowledged survives a power cut, too.
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            _answer(connection, f"PRAGMA {pragma}")
        for (table,) in _answer(connection, "SELECT name FROM sqlite_master WHERE name = 'leases'"):
            ((found, *_), *_) = _answer(connection, f"PRAGMA quick_check({table})")
            if found != "ok":
                raise sqlite3.DatabaseError(f"malformed: {found}")
    except BaseException:
        connection.close()
        raise
    return connection


def _answer(connection: sqlite3.Connection, statement: str) -> list[Any]:
    """All rows, and the statement is over: PyPy would leave it open, and then it is in the way."""
    with closing(connection.execute(statement)) as cursor:
        return cursor.fetchall()


@contextmanager
def store_errors(path: Path | None, what: str) -> Iterator[None]:
    """Turn every error of the database into a StoreError that says what to do."""
    where = "in memory" if path is None else str(path)
    try:
        yield
    except StoreError as error:
        raise StoreError(f"store {where} cannot be {what}: {error}") from None
    except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, TypeError, ValueError) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StoreError(f"store {where} cannot be {what}: {cause}; {_advice(cause)}") from None


_ADVICE = {
    "not a database": "restore a backup, or move it away to start without leases",
    "malformed": "it is damaged: restore a backup, or move it away to start without leases",
    "locked": "another program uses it: end that one",
    "Permission denied": "let this user read and write there",
    "readonly": "let this user write to it and to its directory",
    "full": "make room on that disk",
    "No space left": "make room on that disk",
    "unable to open": "check that its directory exists and that this user may write there",
}


def _advice(cause: str) -> str:
    fitting = (advice for words, advice in _ADVICE.items() if words in cause)
    return next(fitting, "check the disk, or name another store with --store")


# ------------------------------------------------------------------- rows

_DELETE = sa.delete(leases).where(
    leases.c.network_id == sa.bindparam("n"), leases.c.port == sa.bindparam("p")
)
_NEW = insert(leases)
_UPSERT = _NEW.on_conflict_do_update(
    ["network_id", "port"],
    set_={column.name: column for column in _NEW.excluded if not column.primary_key},
)
_PAST = sa.insert(history)


def read_rows(connection: sa.Connection, network_id: int) -> list[Row]:
    """All rows of a network, least recently heard first."""
    chosen = sa.select(leases).where(leases.c.network_id == network_id).order_by(leases.c.heard)
    return [
        Row(
            int(found["port"]),
            found["state"],
            owner_in(found),
            float(found["expires"]),
            float(found["promised"]),
            found["since"],
            found["heard"],
            found["source"],
            found["label"],
            tuple(map(int, found["homes"].split(",") if found["homes"] else ())),
            Shown(found["token"], tuple(found["certificates"].split("\n")[:-1])),
        )
        for found in connection.execute(chosen).mappings()
    ]


def owner_in(found: sa.RowMapping) -> Owner | None:
    """The owner that four columns name."""
    if found["net_key"] is None:
        return None
    identity = Identity(bool(found["proved"]), found["net_key"], found["connection_id"])
    return Owner(identity, found["origin"])


def _owner_values(owner: Owner | None) -> dict[str, object]:
    if owner is None:
        return dict.fromkeys(("proved", "net_key", "connection_id", "origin"))
    identity = owner.identity
    return {
        "proved": identity.proved,
        "net_key": identity.net_key,
        "connection_id": identity.connection_id,
        "origin": owner.origin,
    }


def _row_values(row: Row) -> dict[str, object]:
    return _owner_values(row.owner) | {
        "port": row.port,
        "state": row.state,
        "expires": row.expires,
        "promised": row.promised,
        "since": row.since,
        "heard": row.heard,
        "source": row.source,
        "label": row.label,
        "homes": ",".join(map(str, row.homes)),
        "token": row.shown.token,
        "certificates": "".join(f"{name}\n" for name in row.shown.certificates),
    }


def _past_values(past: PastLease) -> dict[str, object]:
    return _owner_values(past.owner) | {
        "port": past.port,
        "since": past.since,
        "until": past.until,
        "heard": past.heard,
        "source": past.source,
        "label": past.label,
        "outcome": past.outcome,
    }
