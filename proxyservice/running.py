"""What a service was started with, as far as its backup needs it: `running.json` in its state.

Written at each start and kept at the end, so that a service that has stopped can
be backed up, too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from proxyservice.errors import StartError
from proxyservice.files import replace_private

RUNNING_FILE = "running.json"
LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Running:
    """``store`` is a URL as `leases.store.store_url` makes them, or empty: nobody knows."""

    store: str = ""
    files: dict[str, str] = field(default_factory=dict)
    """Absolute paths, by the option that named them."""

    def write(self, directory: Path) -> None:
        """Put it into the state directory, mode 0600. Raises StartError."""
        path = directory / RUNNING_FILE
        try:
            replace_private(path, json.dumps(asdict(self), indent=1).encode() + b"\n")
        except OSError as error:
            raise StartError(f"cannot write {path}: {error.strerror}") from None

    @classmethod
    def read(cls, directory: Path) -> Running:
        """Of the last start there; an empty one where there was none. Raises StartError."""
        path = directory / RUNNING_FILE
        try:
            with path.open("rb") as file:
                found = cls(**json.loads(file.read(LIMIT_BYTES)))
            if not isinstance(found.store, str) or not all(
                isinstance(text, str) for text in (*found.files, *found.files.values())
            ):
                raise TypeError
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise StartError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise StartError(f"{path} is damaged; start the service once, and try again") from None
        return found
