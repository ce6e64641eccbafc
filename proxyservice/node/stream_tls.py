"""`startTLS` on a stream: the protocol keeps its transport, and TLS comes between them.

As Twisted does it on TCP: the transport hands what comes to TLS and TLS to the
protocol, and what the protocol asks of its transport goes through TLS first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import ISSLTransport
from zope.interface import alsoProvides

from proxyservice.net.two_way_tls import TwoWayTLS, TwoWayTLSFactory

if TYPE_CHECKING:
    from proxyservice.node.stream_transport import StreamTransport

_THROUGH_TLS = (
    *("write", "writeSequence", "registerProducer", "unregisterProducer"),
    *("loseConnection", "loseWriteConnection", "abortConnection"),
)


class _Underneath:
    """The stream as TLS sees it: its own methods, none of which goes through TLS."""

    def __init__(self, stream: StreamTransport) -> None:
        self._stream = stream
        vars(self).update({name: getattr(stream, name) for name in _THROUGH_TLS})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def start_tls(stream: StreamTransport, context: Any, *, is_client: bool, clock: Any) -> None:
    """Put TLS between the stream and its protocol. No producer is registered meanwhile."""
    nobody: Any = None  # the protocol is there already
    factory = TwoWayTLSFactory(context, is_client, nobody, clock)
    tls = TwoWayTLS(factory, stream.protocol, False)
    underneath = _Underneath(stream)
    stream.protocol = tls
    through = {name: getattr(tls, name) for name in _THROUGH_TLS}
    through["write"] = lambda data: tls.write(data)  # another one, once it is lost
    vars(stream).update(through, getHandle=tls.getHandle, getPeerCertificate=tls.getPeerCertificate)
    alsoProvides(stream, ISSLTransport)
    tls.makeConnection(underneath)
