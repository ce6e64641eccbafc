"""Whom a node trusts on TLS: authorities and a name, or the pinned key of a relay.

Name and pin are looked at here, when the handshake is done and before anything
is said. Whatever goes wrong in that counts as a wrong certificate: the check of
Twisted 26.10 lets one pass that has no name at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import idna
from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.errors import (
    Distrust,
    ProxyServiceError,
    StartError,
    UnreachableError,
    UntrustedError,
)
from proxyservice.net.certificates import KeyPair, read_certificates, read_key_pair
from proxyservice.net.tls_transport import TLSTransport, key_hash, names_in, tls_failure
from proxyservice.node.certificate_faults import (
    NAME_AN_AUTHORITY,
    WrongCertificateError,
    not_trusted,
)
from proxyservice.text import printable

PIN_BYTES = 32

OURS_REFUSED = ("alert certificate", "alert bad certificate", "alert unknown ca")
"""How an alert begins by which the relay says that it wants another certificate of ours."""


@dataclass(frozen=True, slots=True)
class TLSTrust:
    """``pins`` are SHA-256 hashes of relays' SubjectPublicKeyInfo; with any, they alone decide."""

    ca: Path | None = None  # PEM; None: the system's authorities
    pins: tuple[bytes, ...] = ()
    certificate: Path | None = None  # PEM chain, for relays that want one
    key: Path | None = None  # PEM of its key; None: in the same file

    def creator(self, host: str) -> Any:
        """What makes TLS connections to ``host``. Raises StartError."""
        if self.certificate is None and self.key is not None:
            raise StartError(f"{self.key} is the key of no certificate; name that with --cert")
        options: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_3}
        if self.certificate is not None:
            options |= _shown(read_key_pair(self.certificate, self.key or self.certificate))
        if self.pins:
            context = CertificateOptions(**options).getContext()
            return _Creator(context, None, partial(_check_pin, self.pins))
        context = CertificateOptions(trustRoot=self._authorities(), **options).getContext()
        context.set_verify(context.get_verify_mode(), _verified)
        if _is_ip(host):
            address = host.partition("%")[0]  # which interface leads there is in no certificate
            return _Creator(context, None, partial(_check_ip_address, address))
        try:
            name = host if host.isascii() else idna.encode(host).decode()
        except UnicodeError as error:
            raise StartError(f"no certificate can be for {host!r}: {error}") from None
        return _Creator(context, name.encode(), partial(_check_name, name))

    def _authorities(self) -> Any:
        if self.ca is None:
            return platformTrust()
        return trustRootFromCertificates(
            [Certificate(crypto.X509.from_cryptography(one)) for one in read_certificates(self.ca)]
        )


def _shown(own: KeyPair) -> dict[str, Any]:
    return {
        "privateKey": own.key,
        "certificate": own.certificate,
        "extraCertChain": own.intermediates,
    }


def parse_pin(text: str) -> bytes:
    """64 hex digits, colons allowed. Raises ValueError."""
    try:
        pin = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        pin = b""
    if len(pin) != PIN_BYTES:
        raise ValueError(f"{text!r} is no pin; it has {2 * PIN_BYTES} hex digits (SHA-256)")
    return pin


def _verified(
    connection: SSL.Connection, shown: crypto.X509, code: int, depth: int, is_good: int
) -> bool:
    """Asked by OpenSSL for each certificate of the chain, and for each error it finds."""
    if not is_good:
        try:
            wrong = not_trusted(code, shown.to_cryptography())
        except Exception as error:  # a date or a key that cannot be read
            wrong = WrongCertificateError(f"is of no use: {error}")
        cast("TLSTransport", connection.get_app_data()).blame(Failure(wrong))
    return bool(is_good)


def _check_pin(pins: tuple[bytes, ...], shown: x509.Certificate) -> None:
    """No authority, no name, no dates: who holds the private half is the relay."""
    digest = key_hash(shown)
    if digest not in pins:
        raise WrongCertificateError(
            f"is not pinned: {digest.hex()}; if that is the relay's new key, --pin it; else "
            "somebody else answers there",
            Distrust.PIN,
        )


def _check_name(name: str, shown: x509.Certificate) -> None:
    verify_certificate_hostname(shown, name)


def _check_ip_address(address: str, shown: x509.Certificate) -> None:
    verify_certificate_ip_address(shown, address)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """Connections to one host; ``check`` raises when it is not the host's certificate."""

    def __init__(
        self,
        context: SSL.Context,
        server_name: bytes | None,
        check: Callable[[x509.Certificate], None],
    ) -> None:
        self._context = context
        self._server_name = server_name  # told to the server, which may be many
        self._check = check
        context.set_info_callback(self._handshake_moved)

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name)
        return connection

    def _handshake_moved(self, connection: SSL.Connection, where: int, status: int) -> None:
        if not where & SSL.SSL_CB_HANDSHAKE_DONE:
            return
        shown: x509.Certificate | None = None
        try:
            peer = connection.get_peer_certificate()
            if peer is None:
                raise WrongCertificateError("is missing")
            shown = peer.to_cryptography()
            self._check(shown)
        except Exception as error:  # OpenSSL would lose it, and go on
            wrong = error
            if isinstance(error, VerificationError):
                wrong = WrongCertificateError(f"is for another name{_whose(shown)}")
            elif not isinstance(error, WrongCertificateError):
                wrong = WrongCertificateError(f"is of no use: {error}")
            protocol = cast("TLSMemoryBIOProtocol", connection.get_app_data())
            protocol.failVerification(Failure(wrong))


def _whose(shown: x509.Certificate | None) -> str:
    try:
        names = [] if shown is None else list(names_in(shown))
    except ValueError:  # extensions that make no sense
        names = []
    return f": {printable(', '.join(names))}" if names else ""


def explain(reason: Failure, server: str) -> ProxyServiceError | None:
    """What went wrong in TLS, in one line; None when it was something else.

    What concerns certificates is told apart from the rest, which may be
    somebody's on the path.
    """
    if reason.check(WrongCertificateError):
        wrong = cast("WrongCertificateError", reason.value)
        return UntrustedError(f"{server} shows a certificate that {wrong}", wrong.distrust)
    why = tls_failure(reason)
    if not why:
        return None
    if "certificate verify failed" in why:
        text = f"the certificate of {server} is not trusted; {NAME_AN_AUTHORITY}"
        return UntrustedError(text, Distrust.CERTIFICATE)
    if any(alert in why for alert in OURS_REFUSED):
        text = f"{server} wants another certificate of this node, --cert: {why}"
        return UntrustedError(text, Distrust.OURS)
    return UnreachableError(f"TLS with {server} failed: {why}")
