"""The server's certificate: read, checked, and read again on SIGHUP without dropping anybody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    trustRootFromCertificates,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from proxyservice.errors import StartError
from proxyservice.net.certificates import read_certificates, read_key_pair
from proxyservice.server.certificate_watch import Validity

log = Logger()


@dataclass(frozen=True, slots=True)
class _Read:
    """What the files held."""

    context: SSL.Context
    digest: bytes  # of our own certificate
    validities: tuple[Validity, ...]


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificate:
    """TLS 1.3 with the certificate chain and key of two PEM files.

    With ``client_ca`` a node has to show a certificate that one of its
    authorities signed. Raises StartError for files that cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._read_now = self._read()

    @property
    def validities(self) -> tuple[Validity, ...]:
        """When what is in use ends: our own chain, and the last of the nodes' authorities."""
        return self._read_now.validities

    def reload(self) -> None:
        """Use what is in the files now for new connections; what is bad there changes nothing."""
        self.read_again()()

    def read_again(self) -> Callable[[], None]:
        """Read the files, on any thread; what is returned makes that count, on the reactor's."""
        try:
            return partial(self._use, self._read())
        except StartError as error:
            return partial(log.error, "the old certificate stays in use: {error}", error=error)

    def _use(self, read: _Read) -> None:
        same = read.digest == self._read_now.digest
        self._read_now = read
        which = "; it is the one from before" if same else ""
        log.info("certificate {path} was read again{which}", path=self._certificate, which=which)

    def _read(self) -> _Read:
        own = read_key_pair(self._certificate, self._key)
        trusted = None
        validities = [_first_to_end(self._certificate, [own.certificate, *own.intermediates])]
        if self._client_ca is not None:
            authorities = [
                crypto.X509.from_cryptography(one) for one in read_certificates(self._client_ca)
            ]
            trusted = trustRootFromCertificates([Certificate(one) for one in authorities])
            validities.append(_last_to_end(self._client_ca, authorities))
        options = CertificateOptions(
            privateKey=own.key,
            certificate=own.certificate,
            extraCertChain=own.intermediates,
            trustRoot=trusted,
            raiseMinimumTo=TLSVersion.TLSv1_3,
        )
        digest = own.certificate.digest("sha256")
        return _Read(options.getContext(), digest, tuple(validities))

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Twisted asks for each connection."""
        return SSL.Connection(self._read_now.context, None)


def _first_to_end(path: Path, chain: list[crypto.X509]) -> Validity:
    """A chain is good while all of it is."""
    spans = [_span(one) for one in chain]
    return Validity(path, max(begins for begins, _ in spans), min(ends for _, ends in spans))


def _last_to_end(path: Path, authorities: list[crypto.X509]) -> Validity:
    """Of authorities one is enough: old ones stay in such files."""
    spans = [_span(one) for one in authorities]
    return Validity(path, min(begins for begins, _ in spans), max(ends for _, ends in spans))


def _span(certificate: crypto.X509) -> tuple[float, float]:
    found = (certificate.get_notBefore(), certificate.get_notAfter())
    begins, ends = (datetime.strptime((one or b"").decode(), "%Y%m%d%H%M%SZ") for one in found)
    return (
        begins.replace(tzinfo=timezone.utc).timestamp(),
        ends.replace(tzinfo=timezone.utc).timestamp(),
    )
