"""Whom a node trusts on TLS: authorities and a name, or the pinned key of a relay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.errors import ProxyServiceError, StartError, UntrustedError

PIN_BYTES = 32


@dataclass(frozen=True, slots=True)
class TLSTrust:
    """``pins`` are SHA-256 hashes of relays' SubjectPublicKeyInfo; with any, they alone decide."""

    ca: Path | None = None  # PEM; None: the system's authorities
    pins: tuple[bytes, ...] = ()
    certificate: Path | None = None  # PEM of certificate and key, for relays that want one

    def creator(self, host: str) -> Any:
        """What makes TLS connections to ``host``. Raises StartError."""
        own = self._own_certificate()
        if self.pins:
            options: dict[str, Any] = {}
            if own is not None:
                options = {"privateKey": own.privateKey.original, "certificate": own.original}
            context = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_3, **options).getContext()
            return _PinnedCreator(context)
        return optionsForClientTLS(
            host,
            trustRoot=self._authorities(),
            clientCertificate=own,
            extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_3},
        )

    def _authorities(self) -> Any:
        if self.ca is None:
            return platformTrust()
        read = x509.load_pem_x509_certificates(_read(self.ca))
        if not read:
            raise StartError(f"{self.ca} holds no certificate in PEM")
        return trustRootFromCertificates(
            [Certificate(crypto.X509.from_cryptography(one)) for one in read]
        )

    def _own_certificate(self) -> PrivateCertificate | None:
        if self.certificate is None:
            return None
        text = _read(self.certificate)
        try:
            own: PrivateCertificate = PrivateCertificate.loadPEM(text)
        except (crypto.Error, ValueError):
            raise StartError(f"{self.certificate} holds no certificate with its key") from None
        return own


def _read(path: Path) -> bytes:
    try:
        text = path.read_bytes()
        x509.load_pem_x509_certificates(text)
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise StartError(f"{path} holds no certificate in PEM") from None
    return text


def parse_pin(text: str) -> bytes:
    """64 hex digits, colons allowed. Raises ValueError."""
    try:
        pin = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        pin = b""
    if len(pin) != PIN_BYTES:
        raise ValueError(f"{text!r} is no pin; it has {2 * PIN_BYTES} hex digits (SHA-256)")
    return pin


@implementer(IOpenSSLClientConnectionCreator)
class _PinnedCreator:
    """Lets every certificate through: the handshake above compares its key with the pins."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context, None)


def explain(reason: Failure, server: str) -> ProxyServiceError | None:
    """What went wrong in TLS, in one line; None when it was something else."""
    if reason.check(VerificationError):
        return UntrustedError(f"the certificate of {server} is for another name")
    if not reason.check(SSL.Error):
        return None
    arguments = getattr(reason.value, "args", ())
    details = arguments[0] if arguments else []
    words = "; ".join(str(detail[-1]) for detail in details if detail and detail[-1])
    if "certificate verify failed" in words:
        return UntrustedError(
            f"the certificate of {server} is not trusted; name its authority with --ca, or --pin it"
        )
    return UntrustedError(f"TLS with {server} failed: {words or 'closed'}")
