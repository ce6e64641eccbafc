"""The project itself, as a user would start it: ``twistd`` and ``proxyservice expose``.

Both programs are taken from beside the running Python, so the package has to be
installed there; another installation is measured as a relay of its own.
"""

from __future__ import annotations

import importlib.metadata
import sys
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.processes import run
from benchmarks.scene import free_port

START_SECONDS = 20.0
# Enough for the loads here; the project's default range is ten times as wide.
LEASE_PORTS = 64
# The project's default range; busy ports in it are skipped by the server.
FIRST_LEASE_PORT, LAST_LEASE_PORT = 20000, 29999
_next_lease_port = FIRST_LEASE_PORT
BESIDE_PYTHON = Path(sys.executable).parent


class ProxyService(Peer):
    """A relay server, and a node that exposes the three services on one main connection."""

    name = "proxyservice"
    options = (
        "plain TCP; limits per source do not apply to loopback, nor to the slow wire's two ends"
    )
    has_costs = True
    directory: ClassVar[Path] = BESIDE_PYTHON

    @classmethod
    def missing(cls) -> str:
        absent = [p for p in ("twistd", "proxyservice") if not (cls.directory / p).exists()]
        return f"{', '.join(absent)} not in {cls.directory}: pip install ." if absent else ""

    @classmethod
    def version(cls) -> str:
        try:
            return f"proxyservice {importlib.metadata.version('proxyservice')}"
        except importlib.metadata.PackageNotFoundError:
            return "from a checkout"

    def launch(self, target: Ports) -> Ports:
        control = self._serve()
        return self._expose(control, target, "node")

    def start_many(self, target: Ports, count: int) -> list[Ports]:
        """`count` nodes, each with a key and a main connection of its own."""
        control = self._serve()
        return [self._expose(control, target, f"node{number}") for number in range(count)]

    def _serve(self) -> str:
        return start_server(self, LEASE_PORTS)

    def _trust(self) -> list[str]:
        """What a node needs to know of the server."""
        return []

    def _expose(self, control: str, target: Ports, name: str) -> Ports:
        targets = [f"{target.host}:{port}" for _, port in target.each()]
        command = [str(self.directory / "proxyservice"), "expose", *targets, "--via", control]
        command += self._trust()
        # a key and known relays of its own, away from those of whoever runs this
        state = {"STATE_DIRECTORY": str(self.scene.directory / f"{name}-{free_port()}")}
        node = self.scene.start(self.scene.node, name, command, state)
        self.node_end.append(node)
        found = node.wait_for(r"exposed (\S+) at (\S+):(\d+)", START_SECONDS, len(targets))
        public = {match[1]: int(match[3]) for match in found}
        return Ports(self.scene.relay.address, *(public[text] for text in targets))


class ProxyServiceTLS(ProxyService):
    """The same with TLS 1.3 on the main connection, the server's key pinned."""

    name = "proxyservice TLS"
    options = "TLS 1.3 between server and node; else as proxyservice"
    has_costs = False

    def _serve(self) -> str:
        file, self._pin = _certificate(self.scene.directory)
        options = ("--tls-cert", file, "--tls-key", file)
        return f"tls:{start_server(self, LEASE_PORTS, *options, tls=True)}"

    def _trust(self) -> list[str]:
        return ["--pin", self._pin]


def _certificate(directory: Path) -> tuple[str, str]:
    """A throw-away certificate with its key in one file, and the hash of its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = directory / f"relay-{free_port()}.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return str(file), sha256(public).hexdigest()


def installed_in(found: Path, title: str) -> type[ProxyService]:
    """Name the relay `title` that `twistd` and `proxyservice` of another directory make."""

    class Elsewhere(ProxyService):
        name = title
        options = f"{ProxyService.options}; {found}"
        directory = found

        @classmethod
        def version(cls) -> str:
            return run([str(found / "python"), "-VV"], 10.0).replace("\n", " ").strip()

    return Elsewhere


def start_server(peer: Peer, lease_ports: int, *options: str, tls: bool = False) -> str:
    """Start a server, state directory fresh, as the peer's end; its main port as ``host:port``."""
    assert isinstance(peer, ProxyService), "leases are this project's"
    scene, side, port = peer.scene, peer.scene.relay, free_port()
    low = _lease_range(lease_ports)
    state = scene.directory / f"state-{port}"
    state.mkdir()
    command = [str(peer.directory / "twistd"), "-n", "--pidfile", "", "proxyservice"]
    prefix = "tls:" if tls else ""
    command += ["--listen", f"{prefix}tcp:{port}:interface={side.address}"]
    command += ["--ports", f"{low}-{low + lease_ports - 1}", "--state-dir", str(state), *options]
    if not ip_address(side.address).is_loopback:
        command += ["--trusted-sources", f"{scene.relay.address},{scene.node.address}"]
    peer.server_end.append(scene.start(side, "server", command))
    return f"{side.address}:{port}"


def _lease_range(width: int) -> int:
    """First port of a range that no server started shortly before has."""
    global _next_lease_port
    if _next_lease_port + width > LAST_LEASE_PORT + 1:
        _next_lease_port = FIRST_LEASE_PORT
    low = _next_lease_port
    _next_lease_port += width
    return low
