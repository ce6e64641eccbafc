"""The server's certificate: read, checked, and read again on SIGHUP without dropping anybody."""

from __future__ import annotations

from collections.abc import Callable
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
        self.read_again()()

    def read_again(self) -> Callable[[], None]:
        """Read the files, on any thread; what is returned makes that count, on the reactor's."""
        try:
            return partial(self._use, self._read())
        except StartError as error:
            return partial(log.error, "the old certificate stays in use: {error}", error=error)

    def _use(self, context: SSL.Context) -> None:
        self._context = context
        log.info("certificate {path} was read again", path=self._certificate)

    def _read(self) -> SSL.Context:
        own = read_key_pair(self._certificate, self._key)
        trusted = None
        if self._client_ca is not None:
            trusted = trustRootFromCertificates(
                [
                    Certificate(crypto.X509.from_cryptography(one))
                    for one in read_certificates(self._client_ca)
                ]
            )
        options = CertificateOptions(
            privateKey=own.key,
            certificate=own.certificate,
            extraCertChain=own.intermediates,
            trustRoot=trusted,
            raiseMinimumTo=TLSVersion.TLSv1_3,
        )
        context: SSL.Context = options.getContext()
        return context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Twisted asks for each connection."""
        return SSL.Connection(self._context, None)
