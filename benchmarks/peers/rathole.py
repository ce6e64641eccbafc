"""rathole: a tunnel in Rust; one new connection of the node for each visitor."""

from __future__ import annotations

from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.scene import free_port


class Rathole(Peer):
    """Plain TCP, its services named as ours are."""

    name = "rathole"
    programs = ("rathole",)
    options = "plain TCP, nodelay (its default)"
    version_command = ("rathole", "--version")

    def launch(self, target: Ports) -> Ports:
        public = self.public_ports()
        control = f"{self.scene.relay.address}:{free_port()}"
        server = f'[server]\nbind_addr = "{control}"\ndefault_token = "benchmark"\n'
        client = f'[client]\nremote_addr = "{control}"\ndefault_token = "benchmark"\n'
        for (name, port), (_, origin) in zip(public.each(), target.each(), strict=True):
            server += f'[server.services.{name}]\nbind_addr = "{public.host}:{port}"\n'
            client += f'[client.services.{name}]\nlocal_addr = "{target.host}:{origin}"\n'
        paths = {"server": server, "client": client}
        for side, text in paths.items():
            (self.scene.directory / f"rathole-{side}.toml").write_text(text)
        self.serve("rathole", "--server", str(self.scene.directory / "rathole-server.toml"))
        self.connect("rathole", "--client", str(self.scene.directory / "rathole-client.toml"))
        return public
