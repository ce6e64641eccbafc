"""bore: a small tunnel in Rust; one new connection of the node for each visitor."""

from __future__ import annotations

from benchmarks.origin import Ports
from benchmarks.peers.base import Peer

CONTROL_PORT = 7835  # fixed in bore
START_SECONDS = 10.0


class Bore(Peer):
    """One server, and one client for each service, as bore has it."""

    name = "bore"
    programs = ("bore",)
    options = "one client process per service; control port 7835 is fixed"
    version_command = ("bore", "--version")

    def launch(self, target: Ports) -> Ports:
        public = self.public_ports()
        relay = self.scene.relay
        server = self.serve("bore", "server", "--bind-addr", relay.address)
        server.wait_for("server listening", START_SECONDS)
        for (_, port), (_, origin) in zip(public.each(), target.each(), strict=True):
            local = ["local", str(origin), "--local-host", target.host]
            self.connect("bore", *local, "--to", relay.address, "--port", str(port))
        return public
