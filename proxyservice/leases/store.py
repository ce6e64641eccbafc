"""Rows that survive: SQLite through SQLAlchemy Core, one connection, one thread.

Stored times are those of a wall clock that never jumps (wall at start plus
monotonic since). At load a lease has left what it had at the last heartbeat,
so neither downtime nor a clock set anew shortens it (docs/leases.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from proxyservice.errors import StoreError
from proxyservice.leases.lease import Identity, Owner

SCHEMA_VERSION = 1

_metadata = sa.MetaData()
_clock = sa.Table(
    "proxyservice",
    _metadata,
    sa.Column("network_id", sa.BigInteger, primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("heartbeat", sa.Float, nullable=False),
)
_leases = sa.Table(
    "leases",
    _metadata,
    sa.Column("network_id", sa.BigInteger, primary_key=True),
    sa.Column("port", sa.Integer, primary_key=True),
    sa.Column("proved", sa.Boolean),  # all of the owner is NULL while a port is quarantined
    sa.Column("net_key", sa.LargeBinary),
    sa.Column("connection_id", sa.LargeBinary),
    sa.Column("origin", sa.Text),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One port: a lease of `owner`, or quarantined without one; `expires` is wall time."""

    port: int
    owner: Owner | None
    expires: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an opened store holds."""

    epoch: int  # of this start; already committed
    heartbeat: float  # wall time when the last run was last alive
    rows: list[Row]


class LeaseStore:
    """``url`` is `memory:` or `sqlite:///path`. All methods block; use them from one thread."""

    def __init__(self, url: str, network_id: int) -> None:
        self._network_id = network_id
        self._where = url

    def open(self, wall_now: float) -> Loaded:
        """Create or check the schema, raise and commit the epoch, read all rows."""
        try:
            self._engine = sa.create_engine(
                "sqlite://" if self._where == "memory:" else self._where,
                poolclass=sa.pool.StaticPool,
                connect_args={"check_same_thread": False, "timeout": 5.0},
            )
            return self._open(wall_now)
        except (sa.exc.SQLAlchemyError, TypeError, ValueError) as error:
            raise self._failed("opened", error) from None

    def _open(self, wall_now: float) -> Loaded:
        with self._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            connection.exec_driver_sql("PRAGMA synchronous=FULL")
        with self._engine.begin() as connection:
            _metadata.create_all(connection)
            own = _clock.c.network_id == self._network_id
            before = connection.execute(sa.select(_clock).where(own)).one_or_none()
            if before is not None and before.schema_version > SCHEMA_VERSION:
                raise StoreError(
                    f"store {self._where!r} was written by a newer version (schema "
                    f"{before.schema_version}, this program knows {SCHEMA_VERSION}); upgrade"
                )
            epoch = 1 if before is None else before.epoch + 1
            heartbeat = wall_now if before is None else before.heartbeat
            self._write_clock(connection, epoch, wall_now if before is None else heartbeat)
            return Loaded(epoch, heartbeat, self._read(connection))

    def _write_clock(self, connection: sa.Connection, epoch: int, heartbeat: float) -> None:
        row = {
            "network_id": self._network_id,
            "schema_version": SCHEMA_VERSION,
            "epoch": epoch,
            "heartbeat": heartbeat,
        }
        statement = insert(_clock).values(row)
        connection.execute(statement.on_conflict_do_update(["network_id"], set_=row))

    def _read(self, connection: sa.Connection) -> list[Row]:
        found = connection.execute(
            sa.select(_leases).where(_leases.c.network_id == self._network_id)
        )
        return [
            Row(
                row.port,
                None
                if row.net_key is None
                else Owner(Identity(row.proved, row.net_key, row.connection_id), row.origin),
                row.expires,
                row.source,
            )
            for row in found
        ]

    def write(self, rows: Iterable[Row], gone: Iterable[int], heartbeat: float | None) -> None:
        """Commit one group: rows to keep, ports whose row goes, and the heartbeat if given."""
        try:
            with self._engine.begin() as connection:
                for port in gone:
                    connection.execute(
                        sa.delete(_leases).where(
                            _leases.c.network_id == self._network_id, _leases.c.port == port
                        )
                    )
                values = [self._values(row) for row in rows]
                if values:
                    statement = insert(_leases)
                    excluded = {c.name: c for c in statement.excluded if c.name != "port"}
                    connection.execute(
                        statement.on_conflict_do_update(["network_id", "port"], set_=excluded),
                        values,
                    )
                if heartbeat is not None:
                    connection.execute(
                        sa.update(_clock)
                        .where(_clock.c.network_id == self._network_id)
                        .values(heartbeat=heartbeat)
                    )
        except sa.exc.SQLAlchemyError as error:
            raise self._failed("written", error) from None

    def _values(self, row: Row) -> dict[str, object]:
        identity = row.owner and row.owner.identity
        return {
            "network_id": self._network_id,
            "port": row.port,
            "proved": identity and identity.proved,
            "net_key": identity and identity.net_key,
            "connection_id": identity and identity.connection_id,
            "origin": row.owner and row.owner.origin,
            "expires": row.expires,
            "source": row.source,
        }

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def _failed(self, what: str, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        return StoreError(
            f"store {self._where!r} cannot be {what}: {cause}; check the path, its owner and "
            "free space, or name another store with --store"
        )


def sqlite_url(path: Path) -> str:
    """The URL of a file."""
    return f"sqlite:///{path}"
