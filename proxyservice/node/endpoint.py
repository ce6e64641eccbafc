"""A Twisted server endpoint at a proxy address: any server is reached there, with no local port.

Endpoints with the same servers, key, trust and token share one node, and so one
main connection; they differ by their origin address. The node runs while one of
them listens. With another trust or token it is another node.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyservice.errors import ProxyServiceError
from proxyservice.net import foreign
from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.node.dial import Server, parse_server, refuse_unused_trust
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.keys import open_key
from proxyservice.node.known_relays import KnownRelays
from proxyservice.node.lease import NodeLease
from proxyservice.node.mistakes import TLS_PREFIX
from proxyservice.node.node import Node
from proxyservice.node.state import KEY_FILE, KNOWN_RELAYS_FILE, state_directory
from proxyservice.node.streams import FactoryAcceptor, Visit, tcp_address
from proxyservice.node.tls import TLSTrust, parse_pin
from proxyservice.node.tokens import find_token
from proxyservice.ownership import check_directory
from proxyservice.streams.multiplexer import Stream
from proxyservice.text import argument_text
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.tokens import Token

log = Logger()

NEEDS_TLS = "proxied: ca=, pin= and cert= are for servers with TLS; write tls=yes too"
EXPECTED = "write proxied:HOST[:PORT] or proxied:servers=HOST[:PORT],..."


@implementer(IStreamServerEndpoint)
class ProxiedServerEndpoint:
    """Listens at the proxy address that ``servers`` lease to ``key`` and ``origin``.

    ``servers`` is a failover list of `HOST[:PORT]` or `Server`; ``key`` a key
    file, made on first use (in a directory that is there), by default the
    one in the state directory, where the known relays are kept too.
    ``trust``: whose certificates are good.
    ``token``: a file with a token, else that of the environment, if any.
    ``release``: give the address back when the port stops listening; otherwise
    it stays remembered. Raises StartError for servers that cannot be read.
    """

    def __init__(
        self,
        reactor: Any,
        servers: Sequence[str | Server],
        *,
        key: Path | str | None = None,
        origin: str = "",
        release: bool = False,
        trust: TLSTrust | None = None,
        token: Path | None = None,
    ) -> None:
        self._reactor = reactor
        self._token_file = token
        self._servers = tuple(parse_server(server, reactor, trust) for server in servers)
        self._trust = trust
        self._key_file = None if key is None else Path(key).absolute()
        self._origin = origin
        self._release = release

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Fire when visitors can come; until a server is reached it is tried again and again.

        Fails with StartError (the key), with RefusedError when all servers have
        refused this node for good (`finality.py`: nothing that time may mend),
        with ValueError when the origin listens already, and with what the
        factory's `doStart` raised.
        """
        try:
            token = find_token(self._token_file, os.environ)
            shared = _shared_node(
                self._reactor, self._servers, self._key_file, self._trust, token, self._origin
            )
            lease = shared.open(self._origin, protocolFactory)
        except Exception as error:  # a factory's `doStart` may raise whatever it likes
            return fail(error)
        port = ProxiedPort(shared, lease, protocolFactory, self._release)

        def failed(failure: Failure) -> Deferred[Any]:
            return port.stopListening().addCallback(lambda _: failure)

        listening: Deferred[Any] = lease.when_addressed()
        return listening.addCallbacks(lambda _: port, failed)


@implementer(IListeningPort)
class ProxiedPort:
    """A proxy address that is listened at. It stays the same while the node reconnects."""

    def __init__(
        self, shared: _SharedNode, lease: NodeLease, factory: IProtocolFactory, release: bool
    ) -> None:
        self._shared = shared
        self._lease = lease
        self._factory = factory
        self._release = release
        self._stopped: Deferred[None] | None = None

    def startListening(self) -> None:
        """It listens from the beginning."""

    def stopListening(self) -> Deferred[None]:
        """Let no visitor in any more; the last port of a node ends its connections too."""
        if self._stopped is None:
            self._stopped = self._shared.close(self._lease, release=self._release)
            foreign.call("a factory of protocols", None, self._factory.doStop)
        done: Deferred[None] = Deferred()
        self._stopped.addBoth(lambda _: done.callback(None))
        return done

    def getHost(self) -> IPv4Address | IPv6Address:
        """The proxy address: what visitors dial."""
        assert self._lease.address is not None
        return tcp_address(self._lease.address)


class _OriginAcceptor:
    """The acceptor of one origin address: with nobody listening its visitors are turned away."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._acceptor: FactoryAcceptor | None = None

    @property
    def listens(self) -> bool:
        return self._acceptor is not None

    def open(self, factory: IProtocolFactory) -> None:
        """Serve visitors with this factory from now on."""
        self._acceptor = FactoryAcceptor(factory, self._reactor)

    def close(self) -> None:
        """Turn visitors away."""
        self._acceptor = None

    def accept(self, visit: Visit, switch: StreamSwitch, stream: Stream) -> None:
        """Pass the visitor on to who listens."""
        if self._acceptor is not None:
            self._acceptor.accept(visit, switch, stream)


@dataclass(frozen=True, slots=True)
class _NodeKey:
    """What endpoints that share a node have in common."""

    reactor_id: int
    servers: tuple[str, ...]
    key_file: Path
    trust: TLSTrust
    token: Token | None

    def would_fight(self, other: _NodeKey) -> bool:
        """Whether two nodes take each other's leases: one key, and a server in common."""
        same_key = os.path.realpath(self.key_file) == os.path.realpath(other.key_file)
        return same_key and not set(self.servers).isdisjoint(other.servers)


_shared_nodes: dict[_NodeKey, _SharedNode] = {}


class _SharedNode:
    """The node of all endpoints with the same `_NodeKey`; it runs while one of them listens."""

    def __init__(self, key: _NodeKey, reactor: Any, servers: Sequence[Server]) -> None:
        self._key = key
        self._reactor = reactor
        directory = state_directory()
        check_directory(directory)
        self.node = Node(
            servers,
            reactor=reactor,
            identity=NodeIdentity(key=self._key_in(key.key_file), token=key.token),
            known_relays=KnownRelays(directory / KNOWN_RELAYS_FILE),
        )
        self._leases: dict[str, NodeLease] = {}
        self._listening = 0

    @staticmethod
    def _key_in(path: Path) -> Ed25519PrivateKey:
        is_default = path == state_directory() / KEY_FILE
        opened = open_key(path, in_new_directory=is_default)
        if opened.is_new:
            log.warn("a new key was made: {path}", path=str(path))
        return opened.key

    def open(self, origin: str, factory: IProtocolFactory) -> NodeLease:
        """Have a lease for this origin address, which does not listen yet."""
        lease = self._leases.get(origin)
        if lease is not None and lease.acceptor.listens:
            raise ValueError(f"origin {origin!r} listens already; give each its own origin=NAME")
        try:
            factory.doStart()
        except BaseException:
            self._forget_if_idle()
            raise
        if lease is None:
            acceptor = _OriginAcceptor(self._reactor)
            lease = self.node.lease(origin, mode=pb.MODE_STREAMS, acceptor=acceptor)
            self._leases[origin] = lease
        lease.acceptor.open(factory)
        self._listening += 1
        if self._listening == 1:
            self.node.startService()
        return lease

    def listens(self, origin: str) -> bool:
        """Whether visitors of this origin address are served."""
        lease = self._leases.get(origin)
        return self.node.error is None and lease is not None and bool(lease.acceptor.listens)

    def close(self, lease: NodeLease, *, release: bool) -> Deferred[None]:
        """Nobody listens there any more; fires when that is done."""
        lease.acceptor.close()
        self._listening -= 1
        if release or lease.error is not None:
            del self._leases[lease.origin]
        self._forget_if_idle()
        released = self.node.release(lease) if release else succeed(None)
        return released.addCallback(lambda _: None if self._listening else self.node.stopService())

    def _forget_if_idle(self) -> None:
        if not self._listening and _shared_nodes.get(self._key) is self:
            del _shared_nodes[self._key]


def _shared_node(
    reactor: Any,
    servers: Sequence[Server],
    key_file: Path | None,
    trust: TLSTrust | None,
    token: Token | None,
    origin: str,
) -> _SharedNode:
    """The running node, or a new one. Raises StartError, and ValueError if the origin listens.

    That is so in another node too, of the same key and relay: the two would
    take the lease from each other.
    """
    key_file = key_file or state_directory() / KEY_FILE
    names = tuple(server.name for server in servers)
    key = _NodeKey(id(reactor), names, key_file, trust or TLSTrust(), token)
    for other, node in _shared_nodes.items():
        if node.listens(origin) and key.would_fight(other):
            raise ValueError(f"origin {origin!r} listens already; give each its own origin=NAME")
    shared = _shared_nodes.get(key)
    if shared is None or shared.node.error is not None:
        shared = _shared_nodes[key] = _SharedNode(key, reactor, servers)
    return shared


def parse_endpoint(
    reactor: Any, args: Sequence[str], options: Mapping[str, str]
) -> ProxiedServerEndpoint:
    r"""The endpoint of `proxied:...`, taken apart by Twisted. Raises ValueError.

    Twisted splits at every colon that is not escaped (`\:`); as nothing but
    the servers may stand without a name, those colons are put back.
    """
    options = dict(options)
    servers = ":".join([options.pop("servers"), *args] if "servers" in options else args)
    key, origin = options.pop("key", None), argument_text(options.pop("origin", ""))
    release = _yes(options, "release")
    names = servers.split(",")
    if _yes(options, "tls"):
        names = [TLS_PREFIX + name for name in names]
    trust = _trust(options)
    refuse_unused_trust(names, trust, NEEDS_TLS)
    token = options.pop("token", None)
    if options:
        raise ValueError(f"proxied: there is no option {min(options)!r}")
    try:
        return ProxiedServerEndpoint(
            reactor,
            names,
            key=key,
            origin=origin,
            release=release,
            trust=trust,
            token=_path(token),
        )
    except ProxyServiceError as error:
        raise ValueError(f"proxied: {error}; {EXPECTED}") from None


def _trust(options: dict[str, str]) -> TLSTrust:
    ca, certificate, key = (options.pop(name, None) for name in ("ca", "cert", "cert-key"))
    try:
        pins = tuple(map(parse_pin, options.pop("pin", "").split()))
    except ValueError as error:
        raise ValueError(f"proxied: {error}") from None
    return TLSTrust(_path(ca), pins, _path(certificate), _path(key))


def _path(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None


def _yes(options: dict[str, str], name: str) -> bool:
    answer = options.pop(name, "no")
    if answer not in ("yes", "no"):
        raise ValueError(f"proxied: {name}={answer} is neither yes nor no")
    return answer == "yes"
