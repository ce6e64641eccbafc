"""`proxyservice backup` and `proxyservice restore`: a relay's state into one file, and back."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

import click

from proxyservice.errors import StartError
from proxyservice.options import LONGEST_LINE
from proxyservice.relay_cli import check_system
from proxyservice.state import state_directory, usable_path
from proxyservice.text import printable

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
    check_system()
    from proxyservice.backup.saving import save

    path = _file(file)
    saved = save(state_directory(state_dir), path, time.time())
    for entry in saved.manifest.files:
        _say(f"{entry.name}{_from(entry.option, entry.path)}")
    for left_out in saved.left_out:
        _say(f"not in the backup: {left_out}", err=True)
    if not saved.manifest.database:
        _say("not in the backup: leases, for there are none on disk", err=True)
    _say(f"{path} holds secrets: keep it where nobody else can read it")


@click.command()
@click.argument("file", metavar="FILE")
@STATE_DIR
def restore(file: str, state_dir: str) -> None:
    """Fill an empty state directory from FILE, which `proxyservice backup` has made.

    Files that options of the service named elsewhere come into its folder
    `restored`. If FILE cannot be used, nothing changes.
    """
    check_system()
    from proxyservice.backup.restoring import restore as put_back

    directory = state_directory(state_dir)
    restored = put_back(_file(file), directory, time.time())
    made = datetime.fromtimestamp(restored.manifest.made, timezone.utc)
    _say(f"{directory} is as it was at {made:%Y-%m-%d %H:%M:%S} UTC")
    for place, entry in restored.foreign:
        _say(f"{directory / place}{_from(entry.option, entry.path)}")
    if restored.manifest.store:
        _say(
            f"{directory / restored.manifest.database.partition('/')[2]} has the leases, which "
            f"were in {restored.manifest.store} (--store): start without --store"
        )
    for warning in WARNINGS:
        _say(warning)


def _say(text: str, *, err: bool = False) -> None:
    """Names of files may hold anything, those in a backup above all."""
    click.echo(printable(text, LONGEST_LINE), err=err)


def _from(option: str, path: str) -> str:
    return f" was {path} (--{option})" if option else ""


def _file(text: str) -> Path:
    if text in ("", "-"):
        raise click.UsageError(f"FILE {text!r} is no file; a backup has secrets, and stays on disk")
    try:
        return usable_path(text).absolute()
    except ValueError as error:
        raise click.UsageError(f"FILE {text!r} is no path: {error}") from None
    except OSError as error:  # the working directory is gone
        raise StartError(f"there is no {text}: {error.strerror}") from None
