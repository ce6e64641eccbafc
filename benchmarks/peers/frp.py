"""frp: a tunnel in Go; visitors share one multiplexed connection by default."""

from __future__ import annotations

from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.scene import free_port


class Frp(Peer):
    """frps and frpc, configured in TOML (0.52 and later)."""

    name = "frp"
    programs = ("frps", "frpc")
    options = "transport.tls.enable = false, as all others are plain TCP; tcpMux on (its default)"
    version_command = ("frps", "--version")

    def launch(self, target: Ports) -> Ports:
        public = self.public_ports()
        relay, control = self.scene.relay.address, free_port()
        server = f'bindAddr = "{relay}"\nproxyBindAddr = "{relay}"\nbindPort = {control}\n'
        client = f'serverAddr = "{relay}"\nserverPort = {control}\ntransport.tls.enable = false\n'
        for (name, port), (_, origin) in zip(public.each(), target.each(), strict=True):
            client += f'[[proxies]]\nname = "{name}"\ntype = "tcp"\nremotePort = {port}\n'
            client += f'localIP = "{target.host}"\nlocalPort = {origin}\n'
        server_file = self.scene.directory / "frps.toml"
        client_file = self.scene.directory / "frpc.toml"
        server_file.write_text(server)
        client_file.write_text(client)
        self.serve("frps", "-c", str(server_file)).wait_for("started successfully", 10.0)
        self.connect("frpc", "-c", str(client_file))
        return public
