"""chisel: a tunnel in Go; ssh inside a WebSocket, so always encrypted."""

from __future__ import annotations

from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.scene import free_port


class Chisel(Peer):
    """A reverse server and one client with three remotes."""

    name = "chisel"
    programs = ("chisel",)
    options = "--reverse; always encrypted"
    version_command = ("chisel", "--version")

    def launch(self, target: Ports) -> Ports:
        public = self.public_ports()
        relay, control = self.scene.relay.address, str(free_port())
        server = self.serve("chisel", "server", "--reverse", "--host", relay, "--port", control)
        server.wait_for("Listening", 10.0)
        remotes = [
            f"R:{public.host}:{port}:{target.host}:{origin}"
            for (_, port), (_, origin) in zip(public.each(), target.each(), strict=True)
        ]
        self.connect("chisel", "client", f"http://{relay}:{control}", *remotes)
        return public
