"""Certificates for loopback, and programs that speak TLS with them."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from proxyservice.net.tls_transport import key_hash
from tests.node.processes import SCRIPTS, Program


class Authority:
    """Signs certificates for loopback; `pem` is its own."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._builder(self._subject, self._key.public_key())
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.pem = directory / f"{name}.pem"
        signed = own.sign(self._key, hashes.SHA256())
        self.pem.write_bytes(signed.public_bytes(Encoding.PEM))

    def _builder(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, days: int = 9
    ) -> x509.CertificateBuilder:
        now = datetime.now(timezone.utc)
        return (
            x509.CertificateBuilder(self._subject, subject, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
        )

    def issue(self, name: str, *, host: str = "127.0.0.1", days: int = 9) -> tuple[Path, Path, str]:
        """Files of a certificate and its key, and the hash to pin; it may be for no host."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key(), days)
        if host:
            names = x509.SubjectAlternativeName([name_of(host)])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        files = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        files[1].write_bytes(secret)
        return *files, key_hash(certificate).hex()


def name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def serve(
    started: list[Program], directory: Path, port: int, files: tuple[Path, Path, str], *more: object
) -> Program:
    low = 25000 + os.getpid() % 1000 * 4
    program = Program(
        directory / "relay",
        *(SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice", "--state-dir", "state"),
        *("--listen", f"tls:tcp:{port}:interface=127.0.0.1", "--ports", f"{low}-{low + 3}"),
        *("--tls-cert", files[0], "--tls-key", files[1], *more),
    )
    started.append(program)
    program.wait_for("started: .*")
    return program


def expose(
    started: list[Program],
    directory: Path,
    target: int,
    port: int,
    *more: object,
    host: str = "127.0.0.1",
) -> Program:
    name = f"node{len(started)}"
    program = Program(
        directory / name,
        *(SCRIPTS / "proxyservice", "expose", target, "--via", f"tls:{host}:{port}"),
        *("--key", directory / name / "key", *more),
        STATE_DIRECTORY=str(directory / name),
    )
    started.append(program)
    return program
