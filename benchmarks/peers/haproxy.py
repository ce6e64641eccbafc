"""Two haproxy processes in a chain, in TCP mode: a relay in C with an event loop."""

from __future__ import annotations

from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.scene import free_port

HEAD = """
global
  maxconn 9000
  nbthread 1
defaults
  mode tcp
  backlog 4096
  timeout connect 5s
  timeout client 1h
  timeout server 1h
"""


class Haproxy(Peer):
    """One haproxy on the relay's side, one on the node's side."""

    name = "haproxy"
    programs = ("haproxy",)
    options = "two hops, mode tcp, nbthread 1 each"
    most_idle_streams = 8_000  # within maxconn
    version_command = ("haproxy", "-v")

    def launch(self, target: Ports) -> Ports:
        public = self.public_ports()
        middle = Ports(self.scene.node.address, free_port(), free_port(), free_port())
        self.connect("haproxy", "-db", "-f", self._configuration("node", middle, target))
        self.serve("haproxy", "-db", "-f", self._configuration("relay", public, middle))
        return public

    def _configuration(self, side: str, here: Ports, there: Ports) -> str:
        text = HEAD
        for (name, port), (_, next_port) in zip(here.each(), there.each(), strict=True):
            text += f"listen {name}\n  bind {here.host}:{port}\n"
            text += f"  server next {there.host}:{next_port}\n"
        path = self.scene.directory / f"haproxy-{side}.cfg"
        path.write_text(text)
        return str(path)
