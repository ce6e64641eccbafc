"""The relays a node has met: which relay_id each server had the first time.

Without TLS this is what stands between a node and somebody who took over the
server's address later; it does not protect the first meeting. One line a
server: `host:port`, a space, 64 hex digits; `#` begins a comment.

Several processes share the file, and people edit it. So it is read anew at
each meeting, and added to under a lock; what cannot be read is said, and never
taken for an empty file. The pins of this process outlast a file that vanishes
or is emptied while it runs.
"""

from __future__ import annotations

import os
from hmac import compare_digest
from pathlib import Path

from twisted.logger import Logger

from proxyservice.errors import StartError, UntrustedError
from proxyservice.files import locked, make_private_directory, replace_private
from proxyservice.text import decode_text

RELAY_ID_BYTES = 32

FILE_LIMIT_BYTES = 1024 * 1024
"""Some 10,000 relays; more is no file of ours."""

log = Logger()


class KnownRelays:
    """Pins by server name (`host:port` as the user wrote it), in a file or in memory alone.

    Raises StartError for a file that cannot be read or understood.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._pins: dict[str, bytes] = {}
        if path is None:
            return
        content = _read(path)
        self._pins = _pins_in(path, content)
        if content is not None and not self._pins:
            log.warn("{path} names no relay: the next one is trusted and pinned", path=str(path))

    def __contains__(self, server: str) -> bool:
        return server in self._pins

    def check(self, server: str, relay_id: bytes) -> None:
        """Accept the relay that was met before, or pin a new one.

        Raises UntrustedError when it is another one, or when the file has
        become unreadable and does not tell; StartError when the pin cannot be
        written.
        """
        if len(relay_id) != RELAY_ID_BYTES:
            raise UntrustedError(f"{server} shows no valid relay id")
        known = self._pins.get(server)
        if known is None or not compare_digest(known, relay_id):
            known = self._known_to_the_file(server, relay_id)
        if not compare_digest(known, relay_id):
            raise UntrustedError(
                f"{server} is not the relay it was: id {relay_id.hex()[:16]}..., "
                f"known is {known.hex()[:16]}...{self._remedy()}"
            )

    def _remedy(self) -> str:
        return f"; if that is right, remove its line from {self._path}" if self._path else ""

    def _known_to_the_file(self, server: str, relay_id: bytes) -> bytes:
        """The id that counts; a relay whose line is not there is pinned."""
        if self._path is None:
            return self._pins.setdefault(server, relay_id)
        # a file that is a link somewhere is replaced there
        path = Path(os.path.realpath(self._path))
        known = self._read_again(path, server)[1].get(server)
        if known is not None:
            return known
        try:
            make_private_directory(path.parent)
            with locked(path):
                return self._pinned(path, server, relay_id)
        except OSError as error:
            raise StartError(f"cannot write {self._path}: {error.strerror}") from None

    def _read_again(self, path: Path, server: str) -> tuple[bytes, dict[str, bytes]]:
        """What the file holds now, and the pins in it. Raises UntrustedError."""
        try:
            content = _read(path)
            return content or b"", _pins_in(path, content)
        except StartError as error:
            raise UntrustedError(f"{server} is not trusted: {error}") from None

    def _pinned(self, path: Path, server: str, relay_id: bytes) -> bytes:
        content, there = self._read_again(path, server)  # another process may have been first
        if there:
            self._pins = dict(there)  # also without a line that somebody has removed
        elif self._pins:
            log.warn(
                "{path} is empty or gone: the pins of this process stay and are written again",
                path=str(path),
            )
        pins = {server: relay_id, **self._pins}
        missing = {name: pin for name, pin in pins.items() if name not in there}
        if missing:
            replace_private(path, _extended(content, missing))
        if server not in self._pins:
            log.warn(
                "{server} is met for the first time: its id {id}... is pinned in {path}",
                server=server,
                id=relay_id.hex()[:16],
                path=str(path),
            )
        self._pins = pins  # after the file: what is not on disk is not trusted either
        return pins[server]


def _extended(content: bytes, pins: dict[str, bytes]) -> bytes:
    """The file as it was, comments and all, and what is new at its end."""
    if content and not content.endswith(b"\n"):
        content += b"\n"
    return content + "".join(f"{name} {pin.hex()}\n" for name, pin in pins.items()).encode()


def _read(path: Path) -> bytes | None:
    """None: there is no such file. Raises StartError."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > FILE_LIMIT_BYTES:
        raise StartError(f"{path} is no file of known relays: over {FILE_LIMIT_BYTES >> 20} MiB")
    return content


def _pins_in(path: Path, content: bytes | None) -> dict[str, bytes]:
    """Raises StartError with the line that makes no sense."""
    pins: dict[str, bytes] = {}
    try:
        for number, line in enumerate(decode_text(content or b"").splitlines(), 1):
            words = line.partition("#")[0].split()
            if words:
                _add(pins, words, number)
    except ValueError as error:
        raise StartError(
            f"{path} is no file of known relays: {error}; mend it, or remove the line to trust "
            "whichever relay answers next"
        ) from None
    return pins


def _add(pins: dict[str, bytes], words: list[str], number: int) -> None:
    pin = _pin(words)
    if pin is None:
        raise ValueError(f"line {number} is not HOST:PORT and {2 * RELAY_ID_BYTES} hex digits")
    if pins.setdefault(words[0], pin) != pin:
        raise ValueError(f"line {number} has another id for {words[0]} than a line before")


def _pin(words: list[str]) -> bytes | None:
    try:
        pin = bytes.fromhex(words[1])
    except (ValueError, IndexError):
        return None
    return pin if len(words) == 2 and len(pin) == RELAY_ID_BYTES else None
