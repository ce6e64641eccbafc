"""Where this package keeps what must survive: leases, keys, pinned relays.

Names the directory, never makes it: each user of it knows with what mode.
"""

from __future__ import annotations

import os
from pathlib import Path

from proxyservice.errors import StartError

LONGEST_PATH_BYTES = 2048
"""Half of what Linux takes; the rest is for what is put below."""

DEEPEST_PATH = 100
"""Folders in one another. Python makes missing ones by recursion."""


def state_directory(chosen: str = "") -> Path:
    """The directory chosen, else `$STATE_DIRECTORY` (systemd), else the XDG state directory.

    Absolute, because twistd may change the working directory later. Raises
    StartError where nothing says where: a user without a home, in a container.
    """
    # systemd separates several by colons; the first is the service's own
    given = chosen or os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    try:
        return usable_path(given).absolute() if given else _state_home() / "proxyservice"
    except ValueError as error:
        raise StartError(f"the state directory is no path: {error}") from None


def usable_path(text: str) -> Path:
    """A path that somebody may have meant; whether there is something is not looked at.

    Raises ValueError for what no call to the system takes: some of them would
    end in an error that nobody expects.
    """
    if not text:
        raise ValueError("it is empty")
    if len(os.fsencode(text)) > LONGEST_PATH_BYTES or text.count("/") > DEEPEST_PATH:
        raise ValueError("it is too long")
    return Path(text)


def _state_home() -> Path:
    # XDG: a relative path is to be ignored
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    if home.is_absolute():
        return home
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError:
        raise StartError(
            "this user has no home directory to keep state in; "
            "set STATE_DIRECTORY, XDG_STATE_HOME or HOME"
        ) from None


RESTORED = "restored"
"""Folder in a state directory where a restore puts what options had named elsewhere."""

RESTORING = ".restoring"
"""Folder in a state directory where a restore has what is not all in its place yet."""


def refuse_unfinished(directory: Path) -> None:
    """Raise StartError for a directory in which a restore was interrupted: half of it is missing.

    Without this a service would start without its leases, or as another relay.
    """
    if os.path.lexists(directory / RESTORING):
        raise StartError(
            f"{directory} is only half restored; empty it, and run `proxyservice restore` again"
        )
