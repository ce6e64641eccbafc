"""Exposed local servers: one node, and a lease and a forwarder for each target.

What `proxyservice expose` and `twistd proxynode` have in common: their
settings and the service.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger

from proxyservice.errors import StartError
from proxyservice.node.dial import Server, parse_server, refuse_unused_trust
from proxyservice.node.events import NodeEvents, guarded
from proxyservice.node.forward import Forwarder
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.keys import fingerprint, open_key
from proxyservice.node.known_relays import KnownRelays
from proxyservice.node.lease import NodeLease
from proxyservice.node.node import Node
from proxyservice.node.progress import Traffic
from proxyservice.node.proxy_protocol import HEADERS
from proxyservice.node.reminders import Reminders
from proxyservice.node.state import KEY_FILE, KNOWN_RELAYS_FILE, state_directory
from proxyservice.node.streams import Visit
from proxyservice.node.targets import Target, parse_target
from proxyservice.node.tls import TLSTrust, parse_pin
from proxyservice.node.tokens import find_token
from proxyservice.ownership import check_directory
from proxyservice.state import refuse_unfinished
from proxyservice.text import argument_text
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.tokens import Token

log = Logger()

TARGET_DOWN_SECONDS = 10.0
"""A target that is down is told so often, however many visitors come."""

RELEASE_SECONDS = 1.5
"""How long the end waits for the server to confirm a Release."""

LONGEST_LABEL_BYTES = 64
"""As the protocol has it (proto/proxyservice.proto, ProxyRequest)."""

NEEDS_TLS = "--ca, --pin and --cert are for relays with TLS; write --via tls:HOST:PORT"


@dataclass(frozen=True, slots=True)
class ExposeSettings:
    """What to expose, where, and as whom."""

    targets: tuple[Target, ...]
    servers: tuple[str | Server, ...]
    """Failover list."""
    key_file: Path
    """Made on first use."""
    key_chosen: bool = field(default=False, kw_only=True)
    """Somebody typed its path: then no directory is made for it."""
    known_relays_file: Path
    port: int | None = None
    """Wanted for the only target."""
    port_or_any: bool = False
    """Take any other port when that one is unavailable."""
    label: str = ""
    proxy_protocol: str | None = None
    """`v1` or `v2`."""
    release: bool = False
    """Give the addresses back at the end."""
    trust: TLSTrust = field(default_factory=TLSTrust)
    """Of servers that begin with `tls:`."""
    token: Token | None = None
    """For servers that want one."""


def read_settings(
    targets: Sequence[str],
    via: Sequence[str],
    *,
    key: Path | None = None,
    state_dir: str = "",
    port: int | None = None,
    port_or_any: bool = False,
    label: str = "",
    proxy_protocol: str | None = None,
    release: bool = False,
    ca: Path | None = None,
    pin: Sequence[str] = (),
    cert: Path | None = None,
    cert_key: Path | None = None,
    token: Path | None = None,
) -> ExposeSettings:
    """Check what the user wrote. Raises ValueError, or StartError for a missing home."""
    for repeated in {text for text in targets if targets.count(text) > 1}:
        raise ValueError(f"target {repeated!r} is given twice")
    if port_or_any and port is None:
        raise ValueError("--port-or-any needs --port: the port to ask for first")
    if port is not None and len(targets) != 1:
        raise ValueError("a port can be asked for with one target only")
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{port} is no port; from 1 to 65535")
    label = argument_text(label)
    if len(label.encode()) > LONGEST_LABEL_BYTES or not label.isprintable():
        raise ValueError(f"a label is one line of at most {LONGEST_LABEL_BYTES} bytes")
    directory = state_directory(state_dir)
    trust = TLSTrust(
        None if ca is None else ca.absolute(),
        tuple(map(parse_pin, pin)),
        None if cert is None else cert.absolute(),
        None if cert_key is None else cert_key.absolute(),
    )
    servers = tuple(_server(argument_text(text), trust) for text in via)
    refuse_unused_trust(servers, trust, NEEDS_TLS)
    return ExposeSettings(
        targets=tuple(parse_target(text) for text in targets),
        servers=servers,
        key_file=(key or directory / KEY_FILE).absolute(),
        key_chosen=key is not None,
        known_relays_file=directory / KNOWN_RELAYS_FILE,
        port=port,
        port_or_any=port_or_any,
        label=label,
        proxy_protocol=proxy_protocol,
        release=release,
        trust=trust,
        token=find_token(token, os.environ),
    )


def _server(text: str, trust: TLSTrust) -> str:
    """`[tls:]HOST[:PORT]`, or what endpoint strings have: `tcp:HOST:PORT`, `tcp:host=H:port=P`."""
    if text.startswith("tcp:") and ":" in text[4:] and not text.startswith("tcp://"):
        text = _of_endpoint(text[4:])
    if "," in text:
        raise ValueError(f"{text!r} has a comma; write --via once for each relay")
    try:
        parse_server(text, None, trust)
    except StartError as error:
        raise ValueError(str(error)) from None
    return text


def _of_endpoint(text: str) -> str:
    """`HOST:PORT` from the arguments of a `tcp:` endpoint string. Raises ValueError."""
    if "=" not in text:
        return text
    named = dict(part.split("=", 1) for part in text.split(":") if "=" in part)
    places = [part for part in text.split(":") if "=" not in part]
    for name in ("host", "port"):
        if name not in named:
            named[name] = places.pop(0) if places else ""
    host, port = named.pop("host"), named.pop("port")
    if named or places:
        odd = next(iter([*named, *places]))
        raise ValueError(f"tcp:{text} has {odd!r}; only host and port are taken here")
    return f"{host}:{port}"


class Exposure(Service):
    """Reachable from its start to its stop; ``events`` hears of everything in between.

    ``impatient``: somebody waits at a terminal (`Node`).
    """

    def __init__(
        self,
        reactor: Any,
        settings: ExposeSettings,
        events: NodeEvents,
        *,
        impatient: bool = False,
    ) -> None:
        self._impatient = impatient
        self._reactor = reactor
        self._settings = settings
        self._events = guarded(events)
        self._node: Node | None = None
        self._leases: list[NodeLease] = []
        self._forwarders: list[Forwarder] = []
        self.fingerprint = ""
        """Of the key, once started."""
        self.key_is_new = False
        """It was made at this start."""

    def startService(self) -> None:
        """Read the key and the pins, and connect. Raises StartError."""
        settings = self._settings
        check_directory(settings.known_relays_file.parent)
        refuse_unfinished(settings.known_relays_file.parent)
        opened = open_key(settings.key_file, in_new_directory=not settings.key_chosen)
        key, self.key_is_new = opened.key, opened.is_new
        check_directory(settings.known_relays_file.parent)  # which may be new
        self.fingerprint = fingerprint(key)
        log.info(
            "{which} {fingerprint} in {path}",
            which="new key" if opened.is_new else "key",
            fingerprint=self.fingerprint,
            path=str(settings.key_file),
        )
        node = Node(
            settings.servers,
            reactor=self._reactor,
            identity=NodeIdentity(key=key, token=settings.token),
            known_relays=KnownRelays(settings.known_relays_file),
            events=self._events,
            trust=settings.trust,
            impatient=self._impatient,
        )
        reports = _TargetReports(self._events, self._reactor)
        for target in settings.targets:
            forwarder = Forwarder(
                self._reactor, target, preamble=_preamble(settings.proxy_protocol), events=reports
            )
            lease = node.lease(
                target.name,
                mode=pb.MODE_STREAMS,
                port=settings.port,
                port_or_any=settings.port_or_any,
                label=settings.label,
                acceptor=forwarder,
            )
            self._forwarders.append(forwarder)
            self._leases.append(lease)
        self._node = node
        super().startService()
        self._tell_troubles()
        node.startService()

    def _tell_troubles(self) -> None:
        """Targets that nobody could reach now, before the first visitor finds out."""
        for target in self._settings.targets:
            if target.trouble:
                self._events.target_down(target.name, target.trouble, visitors=0)

    @property
    def traffic(self) -> Traffic:
        """Of all targets together, until now."""
        counts = (
            Traffic(one.open_streams, one.visitors_total, one.bytes_in, one.bytes_out)
            for one in self._forwarders
        )
        return sum(counts, Traffic())

    def stopService(self) -> Deferred[None]:
        """Close everything; fires when that is done."""
        super().stopService()
        node = self._node
        assert node is not None
        released = self._release(node) if self._settings.release else succeed(None)
        return released.addCallback(lambda _: node.stopService())

    def _release(self, node: Node) -> Deferred[Any]:
        """Give everything back; what the server does not confirm in time stays remembered."""
        answers = [self._give_back(node, lease) for lease in self._leases]
        released: Deferred[Any] = DeferredList(answers)
        released.addTimeout(RELEASE_SECONDS, self._reactor)
        return released.addErrback(lambda failure: failure.trap(DeferredTimeoutError) and None)

    def _give_back(self, node: Node, lease: NodeLease) -> Deferred[Any]:
        if lease.granted:
            return node.release(lease).addCallback(lambda _: self._events.released(lease))
        if lease.address is not None:
            self._events.not_released(lease)
        return succeed(None)


class _TargetReports(NodeEvents):
    """Passes on that a target is down: at once, then now and then."""

    def __init__(self, events: NodeEvents, clock: Any) -> None:
        self._events = events
        self._clock = clock
        self._reminders = Reminders(TARGET_DOWN_SECONDS)

    def target_down(self, target: str, reason: str, *, visitors: int = 1) -> None:
        """One visitor more found nobody there."""
        count = self._reminders.due(target, self._clock.seconds())
        if count:
            self._events.target_down(target, reason, visitors=count)


def _preamble(version: str | None) -> Callable[[Visit], bytes] | None:
    if version is None:
        return None
    header = HEADERS[version]
    return lambda visit: header(visit.visitor, visit.proxy_address)
