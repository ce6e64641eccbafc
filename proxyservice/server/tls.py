"""The server's certificate: read, checked, and read again on SIGHUP without dropping anybody."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
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

log = Logger()


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
        self._context = self._read()

    def reload(self) -> None:
        """Use what is in the files now for new connections; what is bad there changes nothing."""
        try:
            self._context = self._read()
        except StartError as error:
            log.error("the old certificate stays in use: {error}", error=error)
        else:
            log.info("certificate {path} was read again", path=self._certificate)

    def _read(self) -> SSL.Context:
        try:
            chain = x509.load_pem_x509_certificates(self._certificate.read_bytes())
            key = crypto.load_privatekey(crypto.FILETYPE_PEM, self._key.read_bytes())
            authorities = []
            if self._client_ca is not None:
                authorities = x509.load_pem_x509_certificates(self._client_ca.read_bytes())
        except OSError as error:
            raise StartError(f"cannot read {error.filename}: {error.strerror}") from None
        except (ValueError, crypto.Error):
            raise StartError(
                f"{self._certificate}, {self._key} or the client CA is no PEM file of its kind"
            ) from None
        own, *others = map(crypto.X509.from_cryptography, chain)
        trusted = [Certificate(crypto.X509.from_cryptography(one)) for one in authorities]
        options = CertificateOptions(
            privateKey=key,
            certificate=own,
            extraCertChain=others,
            trustRoot=trustRootFromCertificates(trusted) if trusted else None,
            raiseMinimumTo=TLSVersion.TLSv1_3,
        )
        try:
            context: SSL.Context = options.getContext()
        except SSL.Error:
            raise StartError(f"{self._key} is not the key of {self._certificate}") from None
        return context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Twisted asks for each connection."""
        return SSL.Connection(self._context, None)
