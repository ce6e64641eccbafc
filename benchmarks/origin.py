"""What stands behind every relay: nginx, an iperf3 server and an echo server.

One of each for all relays; each relay gets three public ports for them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import tools
from benchmarks.processes import BenchmarkError, Process, run, wait_until
from benchmarks.scene import Scene, free_port

START_SECONDS = 20.0
PROBE_SECONDS = 10.0
BODY_BYTES = 1024  # one HTTP answer: small, so that requests and not bytes are counted

NGINX_CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 1h;
  client_body_temp_path {directory}/nginx-1; proxy_temp_path {directory}/nginx-2;
  fastcgi_temp_path {directory}/nginx-3; uwsgi_temp_path {directory}/nginx-4;
  scgi_temp_path {directory}/nginx-5;
  server {{
    listen {address}:{port} backlog=4096;
    location / {{ default_type text/plain; return 200 "{body}"; }}
  }}
}}
"""


@dataclass(frozen=True)
class Ports:
    """The ports of the three services: at the origin, or as a relay publishes them."""

    host: str
    iperf: int
    http: int
    echo: int

    def each(self) -> tuple[tuple[str, int], ...]:
        """(name, port) of the three, always in this order."""
        return (("iperf", self.iperf), ("http", self.http), ("echo", self.echo))


class Origin:
    """The three services, on the node's side of a scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.ports = Ports(scene.node.address, free_port(), free_port(), free_port())
        self._processes: list[Process] = []

    def start(self) -> None:
        """Start all three; returns when each answers."""
        ports, address = self.ports, self.scene.node.address
        commands = (
            ("iperf3", [tools.need("iperf3"), "-s", "-B", address, "-p", str(ports.iperf)]),
            ("nginx", [tools.need("nginx"), "-c", str(self._nginx_configuration())]),
            ("echo", [tools.compiled("echo", self.scene.directory), address, str(ports.echo)]),
        )
        for name, command in commands:
            self._processes.append(self.scene.start(self.scene.node, name, command))
        wait_answering(self.scene, self.scene.node.prefix, ports, self._processes)

    def stop(self) -> None:
        for process in self._processes:
            process.stop()
        self._processes.clear()

    def _nginx_configuration(self) -> Path:
        path = self.scene.directory / "nginx.conf"
        text = NGINX_CONFIGURATION.format(
            directory=self.scene.directory,
            address=self.scene.node.address,
            port=self.ports.http,
            body="x" * BODY_BYTES,
        )
        path.write_text(text)
        return path


def wait_answering(
    scene: Scene, prefix: Sequence[str], ports: Ports, processes: Sequence[Process]
) -> None:
    """Wait until each service answers through `ports`: a byte, a page, a tiny iperf3 run.

    Connecting alone proves nothing: some relays accept before the other end is there.
    """
    pingpong = tools.compiled("pingpong", scene.directory)
    fetch = "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5).read()"
    probes = (
        [pingpong, ports.host, str(ports.echo), "1", "0.2"],
        [sys.executable, "-c", fetch, f"http://{ports.host}:{ports.http}/"],
        [tools.need("iperf3"), "-c", ports.host, "-p", str(ports.iperf), "-n", "1K"],
    )
    for probe in probes:
        wait_until(
            functools.partial(_answers, [*prefix, *probe], processes),
            START_SECONDS,
            f"an answer at {ports.host} for {Path(probe[0]).name}",
        )


def _answers(command: Sequence[str], processes: Sequence[Process]) -> bool:
    for process in processes:
        process.check_alive()
    try:
        run(command, PROBE_SECONDS)
    except BenchmarkError:
        return False
    return True
