"""TLS below a main connection: what its outlet asks of a transport, asked of the one underneath.

Twisted does the TLS; this adds how much waits to leave, and the channel that a
proof is bound to (RFC 9266). Small frames are gathered by `Outlet`, so nothing
is delayed here. Reading is eager, and asks the protocol above how much it can take.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from proxyservice.net.eager import EagerProtocol
from proxyservice.wire.proof import BINDING_BYTES, NO_BINDING, Binding

EXPORTER_LABEL = b"EXPORTER-Channel-Binding"

FIRST_BYTES = 80
"""Enough to see that somebody speaks no TLS, and what instead."""


@dataclass(frozen=True, slots=True)
class Channel:
    """What a proof on one connection is bound to; `key_hash` names the server's certificate key."""

    binding_type: int = Binding.NONE
    binding: bytes = NO_BINDING
    key_hash: bytes = b""  # SHA-256 of its SubjectPublicKeyInfo; empty without TLS


def channel_of(transport: Any) -> Channel:
    """The channel of a main connection's transport, once its handshake is done."""
    return transport.channel() if isinstance(transport, TLSTransport) else Channel()


def heard_below(transport: Any) -> bytes | None:
    """The first bytes that came below TLS, in the clear; None without TLS."""
    return transport.heard if isinstance(transport, TLSTransport) else None


def client_names(transport: Any) -> tuple[str, ...]:
    """The names in the certificate that a node showed; without TLS or a certificate none."""
    if not isinstance(transport, TLSTransport):
        return ()
    shown = transport.peer_certificate()
    return () if shown is None else names_in(shown)


def names_in(certificate: x509.Certificate) -> tuple[str, ...]:
    """Common name and DNS names, each once."""
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = [str(one.value) for one in common]
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        pass
    else:
        names += found.value.get_values_for_type(x509.DNSName)
    return tuple(dict.fromkeys(names))


def key_hash(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo: what nodes pin."""
    public = certificate.public_key()
    return sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def tls_failure(reason: Failure) -> str:
    """What OpenSSL says of a connection that TLS ended; empty when it was something else."""
    if not reason.check(SSL.Error):
        return ""
    arguments = getattr(reason.value, "args", ())
    details = arguments[0] if arguments else []
    return "; ".join(str(detail[-1]) for detail in details if detail and detail[-1]) or "closed"


class TLSTransport(TLSMemoryBIOProtocol, EagerProtocol):
    """Made by `tls_factory`; a transport for `MainConnection` and `NodeConnection`."""

    transport: Any
    factory: _TLSFactory
    wrappedProtocol: EagerProtocol
    heard = b""
    """The first bytes that came, of whatever is at the other end."""

    def receiveRoom(self) -> int | memoryview:
        """As the protocol above has it: what TLS adds makes its bytes a little fewer."""
        room = self.wrappedProtocol.receiveRoom()
        assert isinstance(room, int), "encrypted bytes have no place in the memory of a protocol"
        return room

    def bufferReceived(self, view: memoryview) -> None:
        """Encrypted bytes came.

        The first ones are told above, as none: whoever begins TLS has begun to
        speak, and has as long to say who it is as anybody.
        """
        if not self.heard:
            self.heard = bytes(view[:FIRST_BYTES])
            self.wrappedProtocol.bufferReceived(view[:0])
        self.dataReceived(view)

    def sendProgressed(self) -> None:
        """The kernel took bytes."""
        self.wrappedProtocol.sendProgressed()

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait here or underneath; encrypted ones count with what TLS adds."""
        return sum(map(len, self._appSendBuffer)) + int(self.transport.queued_bytes)

    @property
    def sent_bytes(self) -> int:
        """Bytes that the kernel took, in all."""
        return int(self.transport.sent_bytes)

    @property
    def high_bytes(self) -> int:
        """As of the transport underneath."""
        return int(self.transport.high_bytes)

    @high_bytes.setter
    def high_bytes(self, value: int) -> None:
        self.transport.high_bytes = value

    def socket_handle(self) -> Any:
        """The socket underneath; `getHandle` of Twisted's TLS is OpenSSL's connection."""
        return self.transport.getHandle()

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt and send; a view is valid during the call only."""
        super().write(memoryview(data))

    def _bufferedWrite(self, octets: bytes | memoryview) -> None:
        super()._bufferedWrite(bytes(octets))

    def blame(self, reason: Failure) -> None:
        """Why the handshake will fail, in better words than the alert that OpenSSL sends."""
        if self._reason is None:
            self._reason = reason

    def failVerification(self, reason: Failure) -> None:
        """The other end is the wrong one: what waited for the end of the handshake is not said."""
        self._appSendBuffer.clear()
        super().failVerification(reason)

    def channel(self) -> Channel:
        """The exporter value of this connection, and whose certificate it shows."""
        connection: SSL.Connection = self._tlsConnection
        exported = connection.export_keying_material(EXPORTER_LABEL, BINDING_BYTES, b"")
        shown = (
            connection.get_peer_certificate()
            if self.factory.is_client
            else connection.get_certificate()
        )
        assert shown is not None, "TLS without the server's certificate"
        return Channel(Binding.TLS_EXPORTER, exported, key_hash(shown.to_cryptography()))

    def peer_certificate(self) -> x509.Certificate | None:
        """What the other side has shown, which its key was proved for."""
        connection: SSL.Connection = self._tlsConnection
        shown = connection.get_peer_certificate()
        return None if shown is None else shown.to_cryptography()


class _TLSFactory(TLSMemoryBIOFactory):
    protocol = TLSTransport
    noisy = False

    def __init__(self, creator: Any, wrapped: Any, *, is_client: bool) -> None:
        super().__init__(creator, is_client, wrapped)
        self.is_client = is_client

    def buildProtocol(self, addr: Any) -> Any:
        """None where the factory within takes nobody."""
        inner = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else self.protocol(self, inner)


def tls_factory(creator: Any, wrapped: Any, *, is_client: bool) -> TLSMemoryBIOFactory:
    """Wrap a factory; ``creator`` makes OpenSSL connections as Twisted has it."""
    return _TLSFactory(creator, wrapped, is_client=is_client)
