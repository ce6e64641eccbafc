"""Run a service (the command is given as arguments) until it has leased an address that answers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

MAIN = ("127.0.0.1", 6008)
HEADER_BYTES = 10
START_SECONDS = 20.0


def vector(name: str) -> bytes:
    """The golden frame of this name."""
    entries = json.loads(Path("tests/vectors.json").read_text())
    return next(bytes.fromhex(entry["hex"]) for entry in entries if entry["name"] == name)


def connect_while_it_starts(service: subprocess.Popen[bytes]) -> socket.socket:
    """A connection to the main port, as soon as there is one."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return socket.create_connection(MAIN, timeout=5)
        except ConnectionRefusedError:
            if service.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def read_frame(connection: socket.socket) -> bytes:
    """The body of the next frame."""
    with connection.makefile("rb") as frames:
        header = frames.read(HEADER_BYTES)
        return frames.read(int.from_bytes(header[6:], "big"))


def lease(service: subprocess.Popen[bytes]) -> str:
    """Ask as a node does, and dial what it gets as a visitor does."""
    with connect_while_it_starts(service) as node:
        node.sendall(vector("tcp_proxy_request_unsigned"))
        body = read_frame(node)
        found = re.search(rb"127\.0\.0\.1:(2[0-9]{4})", body)
        if found is None:
            sys.exit(f"no proxy address in {body!r}")
        socket.create_connection((MAIN[0], int(found[1])), timeout=5).close()
        return found[0].decode()


def main() -> None:
    """Exit status 0 only if the service leased and then ended cleanly."""
    with socket.socket() as probe:
        if probe.connect_ex(MAIN) == 0:
            sys.exit(f"port {MAIN[1]} is in use; stop what listens there")
    service = subprocess.Popen(sys.argv[1:])
    try:
        print("leased", lease(service))
    finally:
        service.terminate()
        status = service.wait(15)
    if status != 0:
        sys.exit(f"the service ended with status {status}")


main()
