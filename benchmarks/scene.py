"""Where things stand: the relay's side with the visitors, and the node's side.

On loopback both are the same place; with delay each is a network namespace
(``delay``). Knows addresses and how to run a command on a side; not what runs.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import Process

# Below the kernel's range for outgoing connections (32768-60999), and beside
# the project's default lease range (20000-29999).
FIRST_PORT, LAST_PORT = 12000, 19999


@dataclass(frozen=True)
class Side:
    """One side: the address its servers listen on, and how a command gets there."""

    address: str
    prefix: tuple[str, ...] = ()

    def command(self, command: Sequence[str]) -> list[str]:
        """Prefix a command so that it runs on this side."""
        return [*self.prefix, *command]


@dataclass
class Scene:
    """The two sides of one kind of run, and a directory for its files."""

    name: str
    directory: Path
    relay: Side = field(default_factory=lambda: Side("127.0.0.1"))
    node: Side = field(default_factory=lambda: Side("127.0.0.1"))

    def start(
        self,
        side: Side,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a program on a side; its output goes to `name`.log."""
        log = self.directory / f"{name}-{next(_log_numbers)}.log"
        return Process(side.command(command), log, environment=environment)


_log_numbers = itertools.count(1)
_ports: Iterator[int] = itertools.cycle(range(FIRST_PORT, LAST_PORT + 1))


def free_port() -> int:
    """Pick a TCP port that nobody here listens on and that was not handed out lately."""
    while True:
        port = next(_ports)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
