"""Two socat processes in a chain: a relay in C that forks for each visitor."""

from __future__ import annotations

from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.scene import free_port

BUFFER_BYTES = 65536  # socat's default of 8 KiB costs it half its throughput


class Socat(Peer):
    """Each service: socat on the relay's side to socat on the node's side."""

    name = "socat"
    programs = ("socat",)
    options = f"two hops, fork, nodelay, -b {BUFFER_BYTES}, backlog 1024"
    version_command = ("socat", "-V")
    most_idle_streams = 200  # two processes each

    def launch(self, target: Ports) -> Ports:
        public = self.public_ports()
        node, relay = self.scene.node.address, self.scene.relay.address
        for (_, port), (_, origin) in zip(public.each(), target.each(), strict=True):
            middle = free_port()
            self.connect(*_hop(node, middle, target.host, origin))
            self.serve(*_hop(relay, port, node, middle))
        return public


def _hop(address: str, port: int, to: str, to_port: int) -> tuple[str, ...]:
    listen = f"TCP-LISTEN:{port},bind={address},reuseaddr,fork,nodelay,backlog=1024"
    return ("socat", "-b", str(BUFFER_BYTES), listen, f"TCP:{to}:{to_port},nodelay")
