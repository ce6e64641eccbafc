"""`proxyservice backup` and `proxyservice restore`: a relay's state into one file, and back."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

import click

from proxyservice.errors import StartError
from proxyservice.state import state_directory

STATE_DIR = click.option(
    "--state-dir",
    metavar="DIR",
    default="",
    help="The service's.  [default: $STATE_DIRECTORY, else the XDG state directory]",
)

WARNINGS = (
    "What was granted since then is lost, and may be granted again to others.",
    "Two relays must not run from one backup: see that the old one never starts again.",
)


@click.command()
@click.argument("file", metavar="FILE")
@STATE_DIR
def backup(file: str, state_dir: str) -> None:
    """Put all of a relay's state into FILE, which is made, also while the service runs.

    That is: the leases and their history, the relay's identity, keys and pins,
    and the files that options of the service name. FILE holds secrets. It is
    readable by you alone; keep it so.
    """
    from proxyservice.backup.saving import save

    path = _file(file)
    saved = save(state_directory(state_dir), path, time.time())
    for entry in saved.manifest.files:
        click.echo(f"{entry.name}{_from(entry.option, entry.path)}")
    for left_out in saved.left_out:
        click.echo(f"not in the backup: {left_out}", err=True)
    if not saved.manifest.database:
        click.echo("not in the backup: leases, for there are none on disk", err=True)
    click.echo(f"{path} holds secrets: keep it where nobody else can read it")


@click.command()
@click.argument("file", metavar="FILE")
@STATE_DIR
def restore(file: str, state_dir: str) -> None:
    """Fill an empty state directory from FILE, which `proxyservice backup` has made.

    Files that options of the service named elsewhere come into its folder
    `restored`. If FILE cannot be used, nothing changes.
    """
    from proxyservice.backup.restoring import restore as put_back

    directory = state_directory(state_dir)
    restored = put_back(_file(file), directory, time.time())
    made = datetime.fromtimestamp(restored.manifest.made, timezone.utc)
    click.echo(f"{directory} is as it was at {made:%Y-%m-%d %H:%M:%S} UTC")
    for place, entry in restored.foreign:
        click.echo(f"{directory / place}{_from(entry.option, entry.path)}")
    if restored.manifest.store:
        click.echo(
            f"{directory / restored.manifest.database.partition('/')[2]} has the leases, which "
            f"were in {restored.manifest.store} (--store): start without --store"
        )
    for warning in WARNINGS:
        click.echo(warning)


def _from(option: str, path: str) -> str:
    return f" was {path} (--{option})" if option else ""


def _file(text: str) -> Path:
    if text in ("", "-"):
        raise click.UsageError(f"FILE {text!r} is no file; a backup has secrets, and stays on disk")
    try:
        return Path(text).absolute()
    except OSError as error:  # the working directory is gone
        raise StartError(f"there is no {text}: {error.strerror}") from None
