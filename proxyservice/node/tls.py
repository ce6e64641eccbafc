"""Whom a node trusts on TLS: authorities and a name, or the pinned key of a relay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL, crypto
from service_identity import VerificationError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.errors import ProxyServiceError, StartError, UnreachableError, UntrustedError
from proxyservice.net.certificates import KeyPair, read_certificates, read_key_pair
from proxyservice.net.tls_transport import key_hash, tls_failure

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
            return _PinnedCreator(CertificateOptions(**options).getContext(), self.pins)
        trust = self._authorities()
        try:
            return optionsForClientTLS(host, trust, extraCertificateOptions=options)
        except UnicodeError as error:
            raise StartError(f"no certificate can be for {host!r}: {error}") from None

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


class NotPinnedError(Exception):
    """The relay's certificate has another key; its hash is the argument."""


@implementer(IOpenSSLClientConnectionCreator)
class _PinnedCreator:
    """Lets a certificate through for its key alone: no authority, no name, no dates.

    OpenSSL has seen by then that the relay holds the private half.
    """

    def __init__(self, context: SSL.Context, pins: tuple[bytes, ...]) -> None:
        self._context = context
        self._pins = pins
        context.set_info_callback(self._handshake_moved)

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)
        return connection

    def _handshake_moved(self, connection: SSL.Connection, where: int, status: int) -> None:
        if not where & SSL.SSL_CB_HANDSHAKE_DONE:
            return
        shown = connection.get_peer_certificate(as_cryptography=True)
        digest = b"" if shown is None else key_hash(shown)
        if digest not in self._pins:
            protocol = cast("TLSMemoryBIOProtocol", connection.get_app_data())
            protocol.failVerification(Failure(NotPinnedError(digest.hex())))


def explain(reason: Failure, server: str) -> ProxyServiceError | None:
    """What went wrong in TLS, in one line; None when it was something else.

    Final is what concerns certificates. Other failures may be somebody's on
    the path, who shall not be able to do more than end a connection.
    """
    if reason.check(NotPinnedError):
        return UntrustedError(f"{server} shows a certificate that is not pinned: {reason.value}")
    if reason.check(VerificationError):
        return UntrustedError(f"the certificate of {server} is for another name")
    why = tls_failure(reason)
    if not why:
        return None
    if "certificate verify failed" in why:
        return UntrustedError(
            f"the certificate of {server} is not trusted; name its authority with --ca, or --pin it"
        )
    if any(alert in why for alert in OURS_REFUSED):
        return UntrustedError(f"{server} wants another certificate of this node, --cert: {why}")
    return UnreachableError(f"TLS with {server} failed: {why}")
