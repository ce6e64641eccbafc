"""The relays a node has met: which relay_id each server had the first time.

Without TLS this is what stands between a node and somebody who took over the
server's address later; it does not protect the first meeting. One line a
server: `host:port`, a space, 64 hex digits.
"""

from __future__ import annotations

import os
from hmac import compare_digest
from pathlib import Path

from proxyservice.errors import StartError, UntrustedError

RELAY_ID_BYTES = 32

FILE_LIMIT_BYTES = 1024 * 1024
"""Some 10,000 relays; more is no file of ours."""


class KnownRelays:
    """Pins by server name (`host:port` as the user wrote it), in a file or in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._pins: dict[str, bytes] = _read(path) if path is not None else {}

    def __contains__(self, server: str) -> bool:
        return server in self._pins

    def check(self, server: str, relay_id: bytes) -> None:
        """Accept the relay that was met before, or pin a new one.

        Raises UntrustedError when it is another one, StartError when the pin
        cannot be written.
        """
        if len(relay_id) != RELAY_ID_BYTES:
            raise UntrustedError(f"{server} shows no valid relay id")
        known = self._pins.get(server)
        if known is None:
            self._pins[server] = relay_id
            self._write()
        elif not compare_digest(known, relay_id):
            raise UntrustedError(
                f"{server} is not the relay it was: id {relay_id.hex()[:16]}..., "
                f"known is {known.hex()[:16]}...{self._remedy()}"
            )

    def _remedy(self) -> str:
        return f"; if that is right, remove its line from {self._path}" if self._path else ""

    def _write(self) -> None:
        if self._path is None:
            return
        text = "".join(f"{server} {pin.hex()}\n" for server, pin in self._pins.items())
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.write_text(text)
            partial.replace(self._path)
        except OSError as error:
            raise StartError(f"cannot write {self._path}: {error.strerror}") from None


def _read(path: Path) -> dict[str, bytes]:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_LIMIT_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from None
    try:
        return dict(_pin(line) for line in text.decode().splitlines())
    except ValueError:
        raise StartError(f"{path} is no file of known relays") from None


def _pin(line: str) -> tuple[str, bytes]:
    server, pin = line.split(" ")
    if len(relay_id := bytes.fromhex(pin)) != RELAY_ID_BYTES:
        raise ValueError(line)
    return server, relay_id
