"""The store read beside a running service, for command-line tools: it never writes."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from proxyservice.errors import StoreError
from proxyservice.leases.rows import QUARANTINED, PastLease, Row
from proxyservice.leases.schema import SCHEMA_VERSION, clock, history, leases, version_of
from proxyservice.leases.store import (
    LOCKED_SECONDS,
    network_ids,
    owner_in,
    read_rows,
    store_errors,
)


def has_log(path: Path) -> bool:
    """Whether a store has its write-ahead log: a service has it open, or died with it."""
    return path.with_name(path.name + "-wal").exists()


def connect_read_only(path: Path, *, alone: bool) -> sqlite3.Connection:
    """Never writes, nor checkpoints; ``alone``: nobody has the store open. Raises sqlite3.Error."""
    # A cleanly closed store has no write-ahead log, and who may only read cannot make one.
    mode = "mode=ro&immutable=1" if alone else "mode=ro"
    name = f"file:{quote(os.fsencode(path))}?{mode}"  # a name may be no text
    return sqlite3.connect(name, uri=True, timeout=LOCKED_SECONDS, isolation_level=None)


class StoredLeases:
    """``url`` as for `LeaseStore`. Opens in the constructor. Raises StoreError."""

    def __init__(self, url: str, network_id: int) -> None:
        if url == "memory:":
            raise StoreError("a store in memory can only be read by its own process")
        self._path = Path(url.removeprefix("sqlite:///"))
        self._network_id = network_id
        with store_errors(self._path, "read"):
            self._engine = sa.create_engine(
                "sqlite://", creator=self._connect, poolclass=sa.pool.StaticPool
            )
            try:
                with self._engine.connect() as connection:
                    version = version_of(connection)
            except BaseException:
                self.close()
                raise
        if version != SCHEMA_VERSION:
            self.close()
            raise StoreError(
                f"store {self._path} cannot be read: it is of schema {version}, this program knows "
                f"{SCHEMA_VERSION}; starting the service brings it up to date"
            )

    def _connect(self) -> sqlite3.Connection:
        return connect_read_only(self._path, alone=not has_log(self._path))

    def listing(self) -> tuple[float, list[Row]]:
        """The heartbeat, and what is leased or quarantined, by port.

        `Row.expires` and `Row.promised` less the heartbeat are what was left then (of a live
        lease: what would be left without its node).
        """
        with store_errors(self._path, "read"), self._engine.connect() as connection:
            own = clock.c.network_id == self._network_id
            heartbeat = connection.execute(sa.select(clock.c.heartbeat).where(own)).scalar()
            rows = read_rows(connection, self._network_id)
            return float(heartbeat or 0.0), sorted(rows, key=lambda row: row.port)

    def network_ids(self) -> list[int]:
        """Those that have leases or quarantined ports."""
        with store_errors(self._path, "read"), self._engine.connect() as connection:
            return network_ids(connection)

    def holder_at(self, port: int, wall_time: float) -> PastLease | None:
        """Whose the port was at a moment (seconds since 1970); None: nobody's, as far as is known.

        Exact up to the last commit, some seconds ago at most.
        """
        with store_errors(self._path, "read"), self._engine.connect() as connection:
            return self._in_history(connection, port, wall_time) or self._now(
                connection, port, wall_time
            )

    def _in_history(
        self, connection: sa.Connection, port: int, wall_time: float
    ) -> PastLease | None:
        chosen = (
            sa.select(history)
            .where(history.c.network_id == self._network_id, history.c.port == port)
            .where(history.c.since <= wall_time, history.c.until > wall_time)
            .order_by(history.c.since.desc())
            .limit(1)
        )
        found = connection.execute(chosen).mappings().one_or_none()
        return None if found is None else _past(found, found["until"], found["outcome"])

    def _now(self, connection: sa.Connection, port: int, wall_time: float) -> PastLease | None:
        chosen = (
            sa.select(leases)
            .where(leases.c.network_id == self._network_id, leases.c.port == port)
            .where(leases.c.since <= wall_time, leases.c.state != QUARANTINED)
        )
        found = connection.execute(chosen).mappings().one_or_none()
        return None if found is None else _past(found, None, found["state"])

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()


def _past(found: sa.RowMapping, until: float | None, outcome: str) -> PastLease:
    owner = owner_in(found)
    assert owner is not None, "a lease has an owner"
    return PastLease(
        found["port"],
        owner,
        found["since"],
        until,
        found["heard"],
        found["source"],
        found["label"],
        outcome,
    )
