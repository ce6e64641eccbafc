"""A store copied whole beside the running service, and made fit to be started from.

Knows neither the rows nor the columns of leases: a copy has what the store has,
the history, the quarantine, the heartbeat and what is only in the write-ahead
log yet. Of a store that is brought back only the epoch changes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from proxyservice.errors import StoreError
from proxyservice.leases.reading import connect_read_only, has_log
from proxyservice.leases.schema import version_of
from proxyservice.leases.store import engine_of, store_errors

BUSY_SECONDS = 10.0
"""How long to wait for a program that locks the store; the service never does for long."""

_BUSY = (5, 6)
"""SQLite's numbers for busy and locked; Python knows their names from 3.11 on."""

LEAST_STEP = 1 << 20
STARTS_A_SECOND = 4
LONGEST_AGE_SECONDS = 10 * 365 * 86400
"""By these a copy's epoch rises: for each second that has passed since it was made as many starts
as a service can do, and a million beyond them. So it is above whatever the service from which it
was made, or one that was brought back from it before, can have used. 2,000 times a copy of a
copy's copy, and 30 years in between, fit into a generation."""

LARGEST_EPOCH = 1 << 32
"""A generation has 64 bits, half of them for the epoch (`table.EPOCH_SHIFT`)."""


def copy_store(source: Path, target: Path) -> None:
    """Make `target` a store of its own with all that `source` has at one moment.

    The service may go on writing meanwhile. Raises StoreError.
    """
    with store_errors(source, "backed up"), _full_target():
        while not _copied(source, target):  # a service began or ended at the same moment
            target.unlink()


@contextmanager
def _full_target() -> Iterator[None]:
    """Of the two files only the copy grows."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" not in str(error):
            raise
        raise StoreError("the disk that the backup goes to is full; make room there") from None


def _copied(source: Path, target: Path) -> bool:
    """False where the source was read as one that nobody writes, and somebody did."""
    alone, before = not has_log(source), _seen(source)
    deadline = time.monotonic() + BUSY_SECONDS

    def stepped(status: int, remaining: int, total: int) -> None:
        if status in _BUSY and time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")

    with (
        closing(connect_read_only(source, alone=alone)) as reading,
        closing(_open_alone(target)) as writing,
    ):
        reading.backup(writing, progress=stepped)
        writing.execute("PRAGMA journal_mode=DELETE").close()
        _check(writing)
    return not alone or before == _seen(source)


def _seen(path: Path) -> tuple[int, int, bool]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, has_log(path)


def raise_epochs(path: Path, age_seconds: float) -> None:
    """Make a copy that was made so long ago fit to be started from.

    Raises StoreError, whose text names no file, for one that is damaged, that a newer
    version wrote, or that is no store.
    """
    step = LEAST_STEP + STARTS_A_SECOND * int(min(max(age_seconds, 0.0), LONGEST_AGE_SECONDS))
    try:
        engine = engine_of(lambda: _open_alone(path))
        with closing(engine.raw_connection()) as raw:
            _check(raw)
        with engine.begin() as connection:
            if version_of(connection) is None:
                raise StoreError("there are no tables in it")
            most = connection.exec_driver_sql("SELECT max(epoch) FROM proxyservice").scalar()
            if int(most or 0) + step + LEAST_STEP > LARGEST_EPOCH:
                raise StoreError(f"its epoch is {most}, which is no number of starts")
            connection.exec_driver_sql("UPDATE proxyservice SET epoch = epoch + ?", (step,))
        engine.dispose()
    except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, TypeError, ValueError) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StoreError(cause) from None


def _open_alone(path: Path) -> sqlite3.Connection:
    """Of a file that nobody else has; it stays one file, without a log beside it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("trusted_schema=OFF", "journal_mode=DELETE", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: Any) -> None:
    """All of it is sound. Raises sqlite3.Error."""
    with closing(connection.cursor()) as cursor:
        ((found, *_), *_) = cursor.execute("PRAGMA quick_check").fetchall()
    if found != "ok":
        raise sqlite3.DatabaseError(f"malformed: {found}")
