"""What every relay under test has in common: two ends, public ports, an end.

Does not know any program, and not what is measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from benchmarks import tools
from benchmarks.origin import Ports, wait_answering
from benchmarks.processes import Process, run
from benchmarks.scene import Scene, Side, free_port


class Peer(ABC):
    """One relay: `start`, then `server_end` and `node_end` are running, then `stop`."""

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]] = ()
    # What was set differently from the program's defaults, for the report.
    options: ClassVar[str] = "defaults"
    version_command: ClassVar[tuple[str, ...]] = ()
    # How many idle visitors it is asked to hold, where that has to be bounded.
    most_idle_streams: ClassVar[int] = 10_000
    # Whether what only this project does is measured at it, too.
    has_costs: ClassVar[bool] = False

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.server_end: list[Process] = []
        self.node_end: list[Process] = []

    @classmethod
    def missing(cls) -> str:
        """Which program is absent, in words; empty when the peer can run."""
        absent = [program for program in cls.programs if tools.find(program) is None]
        return f"{', '.join(absent)} not found" if absent else ""

    @classmethod
    def version(cls) -> str:
        """First line with a digit that the program says of its version."""
        if not cls.version_command:
            return ""
        command = [tools.need(cls.version_command[0]), *cls.version_command[1:]]
        lines = run(["sh", "-c", '"$@" 2>&1', "sh", *command], 10.0).splitlines()
        numbered = (s for s in lines if any(c.isdigit() for c in s) and "Time" not in s)
        return " ".join(next(numbered, "").split())

    def start(self, target: Ports) -> Ports:
        """Start both ends; the public ports, once all three services answer there."""
        ports = self.launch(target)
        processes = [*self.server_end, *self.node_end]
        wait_answering(self.scene, self.scene.relay.prefix, ports, processes)
        return ports

    def start_many(self, target: Ports, count: int) -> list[Ports]:
        """`count` places for visitors to connect to; one tunnel is enough for most relays."""
        return [self.start(target)] * count

    def stop(self) -> None:
        for process in [*self.node_end, *self.server_end]:
            process.stop()
        self.node_end.clear()
        self.server_end.clear()

    @abstractmethod
    def launch(self, target: Ports) -> Ports:
        """Start both ends for the three services; the ports that will be public."""

    def public_ports(self) -> Ports:
        """Three free ports at the relay's address."""
        return Ports(self.scene.relay.address, free_port(), free_port(), free_port())

    def serve(self, *command: str) -> Process:
        """Start a program of the server end; its name is looked up."""
        process = self._start(self.scene.relay, command)
        self.server_end.append(process)
        return process

    def connect(self, *command: str) -> Process:
        """Start a program of the node end; its name is looked up."""
        process = self._start(self.scene.node, command)
        self.node_end.append(process)
        return process

    def _start(self, side: Side, command: Sequence[str]) -> Process:
        return self.scene.start(side, self.name, [tools.need(command[0]), *command[1:]])
