"""The tables of the store, and how older ones become them.

Version 1 knew live, remembered and quarantined ports by one expiry; version 2
adds states, labels, the two ends of a proved lease, and the history; version 3
the ports that a lease goes back to, and what its node showed beside its key.
"""

from __future__ import annotations

import sqlalchemy as sa

from proxyservice.errors import StoreError

SCHEMA_VERSION = 3

metadata = sa.MetaData()

clock = sa.Table(
    "proxyservice",
    metadata,
    sa.Column("network_id", sa.BigInteger, primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("heartbeat", sa.Float, nullable=False),
)
"""One row for each network: number of its last start, and when it was last alive."""


def _owner_columns() -> list[sa.Column[object]]:
    # All NULL where a quarantined port is kept for nobody.
    return [
        sa.Column("proved", sa.Boolean),
        sa.Column("net_key", sa.LargeBinary),
        sa.Column("connection_id", sa.LargeBinary),
        sa.Column("origin", sa.Text),
    ]


def _description_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False, server_default=""),
        sa.Column("since", sa.Float, nullable=False, server_default="0"),
        sa.Column("heard", sa.Float, nullable=False, server_default="0"),
    ]


leases = sa.Table(
    "leases",
    metadata,
    sa.Column("network_id", sa.BigInteger, primary_key=True),
    sa.Column("port", sa.Integer, primary_key=True),
    sa.Column("state", sa.Text, nullable=False, server_default="remembered"),
    *_owner_columns(),
    sa.Column("promised", sa.Float, nullable=False, server_default="0"),
    sa.Column("expires", sa.Float, nullable=False),
    *_description_columns(),
    # Ports with commas; names with line ends.
    sa.Column("homes", sa.Text, nullable=False, server_default=""),
    sa.Column("token", sa.Text, nullable=False, server_default=""),
    sa.Column("certificates", sa.Text, nullable=False, server_default=""),
)
"""One row for each port that is leased or in quarantine, in the range or not."""

history = sa.Table(
    "history",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("network_id", sa.BigInteger, nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    *_owner_columns(),
    *_description_columns(),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Index("history_of_port", "network_id", "port", "since"),
    sa.Index("history_by_end", "network_id", "until"),
)
"""One row for each lease that ended; those that last are in `leases`, with their `since`."""

_FROM_VERSION_1 = (
    "ALTER TABLE leases ADD COLUMN state TEXT NOT NULL DEFAULT 'remembered'",
    "ALTER TABLE leases ADD COLUMN promised FLOAT NOT NULL DEFAULT 0",
    "ALTER TABLE leases ADD COLUMN label TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN since FLOAT NOT NULL DEFAULT 0",
    "ALTER TABLE leases ADD COLUMN heard FLOAT NOT NULL DEFAULT 0",
    "UPDATE leases SET promised = expires",
    "UPDATE leases SET state = 'quarantined' WHERE net_key IS NULL",
    # Nobody knows since when; what is known is that they were there at the last heartbeat.
    """UPDATE leases SET (since, heard) = (SELECT heartbeat, heartbeat FROM proxyservice
    WHERE proxyservice.network_id = leases.network_id)""",
    "UPDATE proxyservice SET schema_version = 2",
)

_FROM_VERSION_2 = (
    "ALTER TABLE leases ADD COLUMN homes TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN token TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN certificates TEXT NOT NULL DEFAULT ''",
    "UPDATE proxyservice SET schema_version = 3",
)

_STEPS = {1: _FROM_VERSION_1, 2: _FROM_VERSION_2}
"""From each older version to the next."""


def version_of(connection: sa.Connection) -> int | None:
    """The version of a store, None of an empty one. Raises StoreError on what is no store."""
    tables = set(sa.inspect(connection).get_table_names())
    if not tables:
        return None
    if not {"proxyservice", "leases"} <= tables:
        raise StoreError(f"it is the database of something else, with {', '.join(sorted(tables))}")
    newest = connection.execute(sa.select(sa.func.max(clock.c.schema_version))).scalar()
    if newest is None:  # its first start did not get as far
        return _version_by_shape(connection, tables)
    if newest > SCHEMA_VERSION:
        raise StoreError(
            f"a newer version wrote it (schema {newest}, this program knows "
            f"{SCHEMA_VERSION}); upgrade this program"
        )
    return int(newest)


def _version_by_shape(connection: sa.Connection, tables: set[str]) -> int:
    if "history" not in tables:
        return 1
    columns = {column["name"] for column in sa.inspect(connection).get_columns("leases")}
    return SCHEMA_VERSION if "homes" in columns else 2


def prepare(connection: sa.Connection) -> None:
    """Create the tables or bring them up to date, within the caller's transaction."""
    found = version_of(connection)
    for version in range(SCHEMA_VERSION if found is None else found, SCHEMA_VERSION):
        for statement in _STEPS[version]:
            connection.exec_driver_sql(statement)
    metadata.create_all(connection)
