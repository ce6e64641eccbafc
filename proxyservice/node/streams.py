"""Visitors of a stream lease: who came, and who serves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IProtocolFactory

from proxyservice.errors import FrameError
from proxyservice.net import foreign
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.net.two_way_tls import ends_one_by_one
from proxyservice.node.stream_transport import StreamTransport
from proxyservice.streams.multiplexer import Stream
from proxyservice.wire import proxyservice_pb2 as pb


@dataclass(frozen=True, slots=True)
class Visit:
    """One visitor: where from, what it dialled, and which origin address that stands for."""

    visitor: IPv4Address | IPv6Address
    proxy_address: IPv4Address | IPv6Address
    origin: str

    @classmethod
    def of(cls, opening: pb.StreamOpen) -> Visit:
        """Read what the server says of a visitor. Raises FrameError."""
        visitor, proxy = tcp_address(opening.visitor_address), tcp_address(opening.proxy_address)
        return cls(visitor, proxy, opening.origin_address)


def tcp_address(text: str) -> IPv4Address | IPv6Address:
    """From `host:port`, IPv6 in brackets; a name is kept as it is. Raises FrameError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise FrameError("a visitor whose address is no host:port")
    host = host.removeprefix("[").removesuffix("]")
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, int(port))


class Acceptor(Protocol):
    """Who serves the visitors of a lease."""

    def accept(self, visit: Visit, switch: StreamSwitch, stream: Stream) -> None:
        """Give the stream a local end (`stream.local`); left without, it is reset."""


class FactoryAcceptor:
    """Serves each visitor with a protocol of a Twisted factory; the stream is its transport."""

    def __init__(self, factory: IProtocolFactory, reactor: Any) -> None:
        self._factory = factory
        self._reactor = reactor

    def accept(self, visit: Visit, switch: StreamSwitch, stream: Stream) -> None:
        """Build a protocol, if the factory wants this visitor, and connect it."""
        build = self._factory.buildProtocol
        protocol = foreign.call("a factory of protocols", None, build, visit.visitor)
        if protocol is None:
            return
        ends_one_by_one(protocol)
        transport = StreamTransport(
            switch, stream, protocol, visit.visitor, visit.proxy_address, self._reactor
        )
        transport.begin()
