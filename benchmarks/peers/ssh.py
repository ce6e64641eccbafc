"""``ssh -R`` through an sshd of its own, with keys made for the run and thrown away."""

from __future__ import annotations

import contextlib
import getpass
from pathlib import Path

from benchmarks import tools
from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.processes import run
from benchmarks.scene import free_port

SSHD_CONFIGURATION = """
ListenAddress {address}:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
PidFile none
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
GatewayPorts clientspecified
"""
# sshd wants this directory to exist when root starts it.
SEPARATION_DIRECTORY = Path("/run/sshd")


class Ssh(Peer):
    """OpenSSH's reverse forwarding; always encrypted."""

    name = "ssh -R"
    programs = ("sshd", "ssh", "ssh-keygen")
    options = "always encrypted; no compression"
    most_idle_streams = 1_000  # it takes minutes to open more
    version_command = ("ssh", "-V")

    def launch(self, target: Ports) -> Ports:
        directory, relay, port = self.scene.directory, self.scene.relay.address, free_port()
        self._make_keys(directory)
        configuration = directory / "sshd_config"
        text = SSHD_CONFIGURATION.format(address=relay, port=port, directory=directory)
        configuration.write_text(text)
        self.serve("sshd", "-D", "-e", "-f", str(configuration)).wait_for("listening", 10.0)
        public = self.public_ports()
        remotes: list[str] = []
        for (_, public_port), (_, origin) in zip(public.each(), target.each(), strict=True):
            remotes += ["-R", f"{public.host}:{public_port}:{target.host}:{origin}"]
        options = ["-F", "none", "-N", "-T", "-i", str(directory / "user_key"), "-p", str(port)]
        for setting in (
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ExitOnForwardFailure=yes",
            "BatchMode=yes",
        ):
            options += ["-o", setting]
        self.connect("ssh", *options, *remotes, f"{getpass.getuser()}@{relay}")
        return public

    @staticmethod
    def _make_keys(directory: Path) -> None:
        with contextlib.suppress(OSError):
            SEPARATION_DIRECTORY.mkdir(exist_ok=True)
        for name in ("host_key", "user_key"):
            if not (directory / name).exists():
                keygen = [tools.need("ssh-keygen"), "-q", "-t", "ed25519", "-N", ""]
                run([*keygen, "-f", str(directory / name)], 20.0)
