"""A slow wire: two network namespaces, and delay and loss between them.

``tc netem`` on a veth pair where the kernel has it, else the ``delaybox`` of
``csource/`` on two TUN devices. Needs the right to make namespaces; says
clearly when it has not. The addresses are of the range set aside for
benchmarks (RFC 2544), and no route leads out of the namespaces.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from benchmarks import tools
from benchmarks.processes import BenchmarkError, Process, run
from benchmarks.scene import Scene, Side

DELAY_MS = 50.0  # added to a round trip, half in each direction
LOSS_PERCENT = 0.1  # of packets, in each direction
# More than 50 ms of the fastest run, so that the wire itself drops nothing else.
QUEUE_PACKETS = 65536
RELAY_ADDRESS, NODE_ADDRESS = "198.18.0.1", "198.18.0.2"
COMMAND_SECONDS = 10.0
NAMESPACES = Path("/run/netns")
PREFIX = "bench-"


class DelayedScene:
    """Makes the two namespaces and the wire; `scene` is where to run things."""

    def __init__(self, directory: Path) -> None:
        self._names = {s: f"{PREFIX}{s}-{os.getpid()}" for s in ("relay", "node")}
        relay, node = self._names["relay"], self._names["node"]
        self._ip = tools.find("ip") or "ip"
        self._box: Process | None = None
        self.wire = ""
        self.scene = Scene(
            "delay",
            directory,
            Side(RELAY_ADDRESS, (self._ip, "netns", "exec", relay)),
            Side(NODE_ADDRESS, (self._ip, "netns", "exec", node)),
        )

    def start(self) -> None:
        """BenchmarkError, with everything undone, where it is not permitted."""
        try:
            self._clean()
            for name in self._names.values():
                self._run("netns", "add", name)
                self._run("-n", name, "link", "set", "lo", "up")
            self._connect()
        except BenchmarkError:
            self.stop()
            raise

    def stop(self) -> None:
        if self._box is not None:
            self._box.stop()
            self._box = None
        for name in self._names.values():
            with contextlib.suppress(BenchmarkError):
                self._run("netns", "delete", name)

    def _clean(self) -> None:
        """Delete what a benchmark that was killed has left."""
        for path in NAMESPACES.glob(f"{PREFIX}*"):
            if not Path("/proc", path.name.rpartition("-")[2]).exists():
                self._run("netns", "delete", path.name)

    def _connect(self) -> None:
        relay, node = self._names["relay"], self._names["node"]
        far_end = ["peer", "name", "wire", "netns", node]
        self._run("link", "add", "wire", "netns", relay, "type", "veth", *far_end)
        try:
            for name in (relay, node):
                self._netem(name)
            self.wire = "tc netem"
        except BenchmarkError:
            self._run("-n", relay, "link", "delete", "wire")
            self._start_box(relay, node)
            self.wire = "delaybox on TUN devices (no netem in this kernel)"
        for name, address, other in (
            (relay, RELAY_ADDRESS, NODE_ADDRESS),
            (node, NODE_ADDRESS, RELAY_ADDRESS),
        ):
            self._run("-n", name, "address", "add", address, "peer", other, "dev", "wire")
            self._run("-n", name, "link", "set", "wire", "up")

    def _netem(self, name: str) -> None:
        tc = tools.need("tc")
        shape = ["delay", f"{DELAY_MS / 2:g}ms", "loss", f"{LOSS_PERCENT:g}%"]
        shape += ["limit", str(QUEUE_PACKETS)]
        command = [tc, "-n", name, "qdisc", "add", "dev", "wire", "root", "netem", *shape]
        run(command, COMMAND_SECONDS)

    def _start_box(self, relay: str, node: str) -> None:
        box = tools.compiled("delaybox", self.scene.directory)
        places = [f"/run/netns/{relay}", f"/run/netns/{node}"]
        shape = [str(int(DELAY_MS * 500)), str(LOSS_PERCENT / 100)]
        self._box = Process([box, *places, "wire", *shape], self.scene.directory / "delaybox.log")
        self._box.wait_for("ready", COMMAND_SECONDS)

    def _run(self, *words: str) -> None:
        run([self._ip, *words], COMMAND_SECONDS)
