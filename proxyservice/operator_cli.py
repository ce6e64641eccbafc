"""`proxyservice leases`: what the store says, read beside the running service, never written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxyservice.state import state_directory
from proxyservice.text import printable
from proxyservice.units import format_duration
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from proxyservice.wire.identity import key_fingerprint

if TYPE_CHECKING:
    from proxyservice.leases.lease import Owner
    from proxyservice.leases.reading import StoredLeases
    from proxyservice.leases.rows import PastLease, Row

HEADINGS = ("PORT", "STATE", "KEY", "ORIGIN", "SOURCE", "LABEL", "SINCE", "LEFT")


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds since 1970, from such a number or from ISO 8601 (local time without a zone)."""
    if value is None:
        return None
    try:
        if value.replace(".", "", 1).isdecimal():
            moment = float(value)
        else:
            moment = datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
        _shown(moment)
        return moment
    except (ValueError, OverflowError, OSError):  # what is no time, or none that can be shown
        wanted = "write it as 2026-03-01T12:30 or 2026-03-01T12:30Z"
        raise click.BadParameter(f"{value!r} is no time; {wanted}") from None


@click.command()
@click.option(
    "--at", metavar="TIME", callback=_moment, help="Who had the port then: 2026-03-01T12:30."
)
@click.option("--port", metavar="N", type=click.IntRange(1, 65535), help="This port only.")
@click.option(
    "--state-dir",
    metavar="DIR",
    default="",
    help="The service's.  [default: $STATE_DIRECTORY, else the XDG state directory]",
)
@click.option("--store", metavar="URL", default="", help="As the service's --store.")
@click.option("--network-id", metavar="N", type=click.IntRange(0, 2**32 - 1), default=None)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a lease.")
def leases(
    at: float | None,
    port: int | None,
    state_dir: str,
    store: str,
    network_id: int | None,
    as_json: bool,
) -> None:
    """List the leases of the relay on this machine, running or not.

    With --at and --port: who had that port at that time. Times are shown in
    local time; LEFT is how long a lease outlasts its node's absence.
    """
    if at is not None and port is None:
        raise click.UsageError("--at asks who had a port; say which with --port")
    if network_id is None:
        network_id = DEFAULT_NETWORK_ID
    stored = _open(state_dir, store, network_id)
    try:
        known = stored.network_ids()
        if known and network_id not in known:
            others = ", ".join(map(str, known))
            click.echo(
                f"no leases of network id {network_id}; --network-id has some for: {others}",
                err=True,
            )
        if at is not None and port is not None:
            _tell_holder(stored.holder_at(port, at), port, at, as_json=as_json)
        else:
            heartbeat, rows = stored.listing()
            wanted = [row for row in rows if port in (None, row.port)]
            _tell_rows(wanted, heartbeat, as_json=as_json)
    finally:
        stored.close()


def _open(state_dir: str, store: str, network_id: int) -> StoredLeases:
    from proxyservice.leases.reading import StoredLeases
    from proxyservice.leases.store import store_url

    try:
        url = store_url(store, state_directory(state_dir))
        path = Path(url.removeprefix("sqlite:///"))
        exists = url == "memory:" or path.exists()
    except ValueError as error:
        raise click.UsageError(f"--store: {error}") from None
    except OSError as error:
        raise click.ClickException(f"cannot look at {path}: {error.strerror}") from None
    if not exists:
        raise click.ClickException(f"there is no store {path}; name the place with --state-dir")
    return StoredLeases(url, network_id)


# ------------------------------------------------------------------------ for people


def _tell_rows(rows: Sequence[Row], heartbeat: float, *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(json.dumps(_row_fields(row, heartbeat)))
        return
    table = [HEADINGS, *(_cells(row, heartbeat) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _cells(row: Row, heartbeat: float) -> tuple[str, ...]:
    owner = row.owner
    return (
        str(row.port),
        row.state,
        _key(owner) if owner is not None else "-",
        printable(owner.origin) if owner is not None and owner.origin else "-",
        printable(row.source) or "-",
        printable(row.label) or "-",
        _shown(row.since) if row.since else "-",
        "-" if _is_for_good(row) else format_duration(round(row.expires - heartbeat)),
    )


def _is_for_good(row: Row) -> bool:
    """Its node is there, or its port is its own."""
    return row.state == "live" or row.expires == inf


def _tell_holder(past: PastLease | None, port: int, at: float, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(None if past is None else _past_fields(past)))
    elif past is None:
        click.echo(f"nobody had port {port} at {_shown(at)}, as far as the store remembers")
    else:
        origin = f" for {printable(past.owner.origin)}" if past.owner.origin else ""
        label = f" ({printable(past.label)})" if past.label else ""
        until = "" if past.until is None else f" until {_shown(past.until)}"
        click.echo(
            f"port {port} at {_shown(at)}: {_key(past.owner)}{origin}{label} "
            f"from {printable(past.source)}, "
            f"since {_shown(past.since)}{until}, {past.outcome}"
        )


def _key(owner: Owner) -> str:
    """As everywhere, and as the policy takes it; a claimed identity is nobody's for sure."""
    return key_fingerprint(owner.identity.net_key) + ("" if owner.identity.proved else "?")


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment).isoformat(sep=" ", timespec="seconds")


# ---------------------------------------------------------------------- for programs


def _row_fields(row: Row, heartbeat: float) -> dict[str, Any]:
    left = None if _is_for_good(row) else max(0.0, round(row.expires - heartbeat, 3))
    return {
        "port": row.port,
        "state": row.state,
        **dict(_owner_fields(row.owner)),
        "source": printable(row.source) or None,
        "label": printable(row.label) or None,
        "since": _utc(row.since),
        "heard": _utc(row.heard),
        "left_seconds": left,
    }


def _past_fields(past: PastLease) -> dict[str, Any]:
    return {
        "port": past.port,
        "outcome": past.outcome,
        **dict(_owner_fields(past.owner)),
        "source": printable(past.source),
        "label": printable(past.label) or None,
        "since": _utc(past.since),
        "until": None if past.until is None else _utc(past.until),
        "heard": _utc(past.heard),
    }


def _owner_fields(owner: Owner | None) -> Iterator[tuple[str, Any]]:
    identity = None if owner is None else owner.identity
    yield "key", None if identity is None else key_fingerprint(identity.net_key)
    yield "net_key", None if identity is None else identity.net_key.hex()
    yield "connection_id", None if identity is None else identity.connection_id.hex() or None
    yield "proved", None if identity is None else identity.proved
    yield "origin", None if owner is None else printable(owner.origin)


def _utc(moment: float) -> str | None:
    if not moment:
        return None
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds")
