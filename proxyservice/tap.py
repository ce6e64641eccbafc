"""`twistd proxyservice`: options, and the one place where the service is wired together."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python import usage

from proxyservice.errors import StartError
from proxyservice.files import make_private_directory
from proxyservice.leases.lease import LeaseTimes
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.store import FILE_NAME, LeaseStore, store_url
from proxyservice.net.deadlines import Deadlines
from proxyservice.net.turns import Turns
from proxyservice.options import NO_BUSY_POLL, PluginOptions
from proxyservice.ownership import check_directory
from proxyservice.process import (
    ExplainedStart,
    exit_cleanly_on_signals,
    on_hangup,
    prepare_reactor,
    tell_version,
)
from proxyservice.running import Running
from proxyservice.server.access import Access
from proxyservice.server.certificate_watch import CertificateWatch
from proxyservice.server.claims import Claimed
from proxyservice.server.descriptors import Descriptors
from proxyservice.server.factory import MainFactory
from proxyservice.server.limit_options import Limits
from proxyservice.server.limits import ServiceLimits
from proxyservice.server.main_ports import MainPort
from proxyservice.server.notify import Notifier
from proxyservice.server.ports import ProxyPorts
from proxyservice.server.relay_id import SECRET_FILE, relay_id
from proxyservice.server.reloading import Reloading
from proxyservice.server.service import ProxyService
from proxyservice.server.settings import ServiceSettings
from proxyservice.server.tls import ServerCertificate
from proxyservice.server.waiting_room import WaitedPorts, WaitingRoom
from proxyservice.state import refuse_unfinished, state_directory
from proxyservice.state_lock import StateLock
from proxyservice.units import parse_duration, parse_port_range, parse_size

log = Logger()

MAX_FRAME_LIMIT_BYTES = 1 << 30
"""Above this one frame could hold more memory than the service should ever use."""


_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*\.?")
_NUMBERS = re.compile("[0-9.]+")


def _network_id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 1 << 32:
        raise ValueError(f"{text!r} is no network id; a number from 0 to 4294967295")
    return int(text)


def _interface(text: str) -> str:
    """An address where this machine can listen: else each port would seem to be taken."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is no IP address") from None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.bind((str(address), 0))
    except OSError as error:
        raise ValueError(f"cannot listen on {address}: {error.strerror}") from None
    return str(address)


def _public_host(text: str) -> str:
    """A name, or an IP address, IPv6 with brackets or without; returned without."""
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(inside)
    except ValueError:
        if inside == text and _HOST_NAME.fullmatch(text) and not _NUMBERS.fullmatch(text):
            return text
    else:
        is_bracketed_ipv4 = inside != text and address.version == 4
        if not (is_bracketed_ipv4 or address.is_unspecified or address.is_multicast):
            return str(address)
    raise ValueError(f"{text!r} is no host; a name or an IP address, without port")


def _node_address(text: str) -> str:
    match = re.fullmatch(r"tcp://(\[[0-9a-fA-F:]+\]|[0-9.]+):([0-9]{1,5})", text)
    try:
        if match is None or not 0 < int(match[2]) < 65536:
            raise ValueError
        ipaddress.ip_address(match[1].strip("[]"))
    except ValueError:
        raise ValueError(
            f"{text!r} is no node address; write it as tcp://203.0.113.7:6008"
        ) from None
    return text


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    if text == "none":
        return ()
    try:
        return tuple(ipaddress.ip_network(one.strip()) for one in text.split(","))
    except ValueError as error:
        raise ValueError(f"{error}; write networks as 10.0.0.0/8,fd00::/8, or none") from None


def _duration_or_none(text: str) -> float:
    return 0.0 if text in ("0", "0s") else parse_duration(text)


def _claimed(text: str) -> Claimed:
    try:
        return Claimed(text)
    except ValueError:
        raise ValueError(f"{text!r} is none of allow, local and deny") from None


def _max_frame(text: str) -> int:
    size = parse_size(text)
    if size > MAX_FRAME_LIMIT_BYTES:
        raise ValueError(f"{text!r} is too large; at most 1GiB")
    return size


def _inflate_check(text: str) -> int:
    return 0 if text == "0" else _max_frame(text)


_CHECKS: dict[str, Callable[[str], Any]] = {
    "public-host": _public_host,
    "ports": parse_port_range,
    "port-interface": _interface,
    "node-address": _node_address,
    "network-id": _network_id,
    "lease-ttl": parse_duration,
    "proved-ttl": parse_duration,
    "keepalive": parse_duration,
    "drain": _duration_or_none,
    "hold": _duration_or_none,
    "hold-messages": _duration_or_none,
    "history": parse_duration,
    "trusted-sources": _networks,
    "claimed": _claimed,
    "max-frame": _max_frame,
    "inflate-check": _inflate_check,
}
"""From what was typed to what is meant; an empty value stands for the default."""


CLAIMS_ALLOWED = (
    "nodes that prove no key are let in, as deployed ones need it; --claimed deny keeps them out, "
    "--claimed allow says that this is meant"
)

NEW_IDENTITY = (
    f"there are leases, and {SECRET_FILE} was not beside them: nodes that have met this relay "
    f"take it for another one, and refuse it; stop, and put {SECRET_FILE} back from a backup"
)

LEASES_NOT_USED = (
    f"--store begins empty, and the leases of {FILE_NAME} in the state directory are not used; "
    "if they are those of a restored backup, start without --store"
)

TLS_OPTIONS = ("tls-cert", "tls-key", "tls-client-ca")
FILE_OPTIONS = (*TLS_OPTIONS, "token-file", "policy")
"""What these name is in a backup, too."""


class Options(PluginOptions):
    """Options of `twistd proxyservice`; docs/operations.md explains them."""

    command = "proxyservice"
    synopsis = "[options]"
    longdesc = "Lease public addresses to nodes behind NAT and relay to them what arrives there."
    optParameters: ClassVar[list[list[str | None]]] = [
        ["public-host", None, "", "Host in proxy addresses. [default: the local address]"],
        ["ports", None, "20000-29999", "Ports to lease, inclusive."],
        ["port-interface", None, "", "Where proxy ports listen. [default: all, IPv6 and IPv4]"],
        ["node-address", None, "", "tcp://IP:PORT that nodes dial. [default: the local address]"],
        ["network-id", None, "1564141146", "Network id."],
        ["lease-ttl", None, "180m", "How long an address is remembered: 90s, 15m, 3h."],
        ["proved-ttl", None, "30d", "How long a proved address is kept if there is room."],
        ["keepalive", None, "15s", "Interval told to nodes."],
        ["hold", None, "10s", "How long visitors of streams wait for a node that went; 0: not."],
        ["hold-messages", None, "25s", "The same for visitors with messages; 0: not."],
        ["drain", None, "30s", "How long a stop lets open visitors finish; 0: not at all."],
        ["history", None, "90d", "How long it is kept who had which port."],
        ["trusted-sources", None, "127.0.0.0/8,::1/128", "Limits per source spare these."],
        ["claimed", None, None, "Nodes without proof: allow, local, deny. [default: allow]"],
        ["tls-cert", None, None, "Certificate chain (PEM) of endpoints like tls:tcp:6009."],
        ["tls-key", None, None, "Its key (PEM). Both are read again on SIGHUP."],
        ["tls-client-ca", None, None, "Authorities (PEM) that nodes need a certificate of."],
        ["token-file", None, None, "Tokens that nodes need one of; read again on SIGHUP."],
        ["policy", None, None, "TOML file: who may have what; read again on SIGHUP."],
        ["max-frame", None, "64MiB", "Largest relayed frame."],
        ["inflate-check", None, "0", "Inflate and check relayed bodies up to this size."],
        ["store", None, "", "memory: or sqlite:///path [default: in the state directory]"],
        ["state-dir", None, "", "[default: $STATE_DIRECTORY, else the XDG state directory]"],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [NO_BUSY_POLL]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["limit"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Endpoint string for main connections; may be repeated (tcp:6008)."""
        self["listen"].append(endpoint)

    def opt_limit(self, text: str) -> None:
        """NAME=VALUE of one limit; may be repeated. docs/operations.md has the names."""
        self["limit"].append(text)

    def postOptions(self) -> None:
        """Check what has no default to check."""
        from twisted.internet import reactor

        self._refuse_empty()
        self["listen"] = self["listen"] or ["tcp:6008"]
        self["state-dir"] = make_state_directory(self["state-dir"])
        self["warnings"] = []
        had_leases = (self["state-dir"] / FILE_NAME).exists()
        if had_leases and not (self["state-dir"] / SECRET_FILE).exists():
            self["warnings"].append(NEW_IDENTITY)
        try:
            self["relay-id"] = relay_id(self["state-dir"])
        except StartError as error:
            raise usage.UsageError(f"--state-dir: {error}") from None
        for endpoint in self["listen"]:
            try:
                MainPort.parse(endpoint).server(reactor)
            except ValueError as error:
                raise usage.UsageError(f"--listen {endpoint!r}: {error}") from None
        self["certificate"] = self._certificate()
        self["access"] = self._access()
        try:
            self["store"] = store_url(self["store"], self["state-dir"])
        except ValueError as error:
            raise usage.UsageError(f"--store: {error}") from None
        if had_leases and not os.path.lexists(self["store"].removeprefix("sqlite:///")):
            self["warnings"].append(LEASES_NOT_USED)
        for name, check in _CHECKS.items():
            try:
                self[name] = check(self[name]) if self[name] else ""
            except ValueError as error:
                raise usage.UsageError(f"--{name}: {error}") from None
        own = ServiceLimits(
            max_frame_bytes=self["max-frame"], inflate_check_bytes=self["inflate-check"]
        )
        try:
            self["limits"] = Limits.parse(self["limit"], own)
        except ValueError as error:
            raise usage.UsageError(f"--limit: {error}") from None

    def _refuse_empty(self) -> None:
        """An empty value, as of an unset variable, stands for a default of "" alone.

        What keeps somebody out is no such option: it would let everybody in.
        """
        for row in self.optParameters:
            name, default = str(row[0]), row[2]
            if default != "" and self[name] == "":
                raise usage.UsageError(f"--{name} needs a value")

    def _access(self) -> Access:
        """The operator's files. Raises UsageError."""
        tokens, policy = (
            Path(self[name]).absolute() if self[name] else None for name in ("token-file", "policy")
        )
        try:
            return Access(tokens, policy)
        except StartError as error:
            raise usage.UsageError(str(error)) from None

    def _certificate(self) -> ServerCertificate | None:
        """What TLS endpoints show. Raises UsageError."""
        certificate, key, client_ca = (self[name] for name in TLS_OPTIONS)
        wanted = any(MainPort.parse(endpoint).tls for endpoint in self["listen"])
        if not wanted and not (certificate or key or client_ca):
            return None
        if not (wanted and certificate and key):
            raise usage.UsageError(
                "TLS needs --tls-cert, --tls-key and an endpoint with it: --listen tls:tcp:6009"
            )
        try:
            return ServerCertificate(
                Path(certificate).absolute(),
                Path(key).absolute(),
                Path(client_ca).absolute() if client_ca else None,
            )
        except StartError as error:
            raise usage.UsageError(str(error)) from None


def make_state_directory(option: str) -> Path:
    """The directory to keep state in, created with mode 0700. Raises UsageError."""
    try:
        directory = state_directory(option)
    except StartError as error:
        raise usage.UsageError(f"--state-dir: {error}") from None
    try:
        make_private_directory(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError("not writable")
        check_directory(directory)
        refuse_unfinished(directory)
    except OSError as error:
        raise usage.UsageError(f"--state-dir {directory}: {error.strerror or error}") from None
    except StartError as error:
        raise usage.UsageError(f"--state-dir: {error}") from None
    return directory


def _default_claimed(options: Options) -> Claimed:
    """Where nodes have to show more than a proof, a claim is not enough."""
    more = options["tls-client-ca"] or options["access"].wants_tokens
    return Claimed.DENY if more else Claimed.ALLOW


def _running(options: Options) -> Running:
    """What a backup of this service has to find."""
    files = {name: str(Path(options[name]).absolute()) for name in FILE_OPTIONS if options[name]}
    return Running(options["store"], files)


def makeService(options: Options) -> Service:
    """Wire the service; nothing is opened before it starts."""
    from twisted.internet import reactor

    tell_version("proxyservice")
    prepare_reactor(reactor, busy_poll=not options["no-busy-poll"])
    directory = options["state-dir"]
    store = LeaseStore(options["store"], options["network-id"])
    deadlines = Deadlines()
    services: list[ProxyService] = []
    limits = options["limits"].service
    ports = ProxyPorts(
        reactor,
        options["port-interface"],
        lambda *visit: services[0].visitor_arrived(*visit),
        limits.backlog,
        limits.visitor_vanished_seconds,
    )
    times = LeaseTimes(
        ttl=options["lease-ttl"],
        proved_ttl=options["proved-ttl"],
        hold=options["hold"],
        hold_messages=options["hold-messages"],
    )
    room = WaitingRoom(limits.waiting_visitors, limits.waiting_per_lease)
    binder = WaitedPorts(ports, room)
    registry = LeaseRegistry(
        reactor,
        store,
        options["ports"],
        times,
        binder,
        history_seconds=options["history"],
        lines_per_second=limits.leases_logged_a_second,
    )
    settings = ServiceSettings(
        network_id=options["network-id"],
        relay_id=options["relay-id"],
        public_host=options["public-host"],
        node_address=options["node-address"],
        keepalive_seconds=options["keepalive"],
        claimed=options["claimed"] or _default_claimed(options),
        trusted_sources=options["trusted-sources"],
        quota=options["limits"].quota,
        times=times,
        limits=limits,
    )
    descriptors = Descriptors(lambda: factory.sockets + len(ports) + room.count)
    factory = MainFactory(
        registry,
        deadlines,
        time.monotonic,
        settings,
        room,
        options["access"],
        descriptors,
        turns=Turns(reactor),
    )
    lock = StateLock(directory)
    certificate = options["certificate"]
    service = ProxyService(
        reactor,
        options["listen"],
        registry,
        ports,
        factory,
        deadlines,
        lock,
        options["ports"],
        certificate,
        options["drain"],
        Notifier.of_this_process(),
        partial(_running(options).write, directory),
    )
    factory.watch_access()
    factory.next_turn = partial(reactor.callLater, 0)
    reloading = Reloading()
    reloading.add(factory.access.read_again, factory.check_access)
    if certificate is not None:
        watch = CertificateWatch(reactor, lambda: certificate.validities)
        reactor.callWhenRunning(watch.start)
        reloading.add(certificate.read_again, watch.look)
    reactor.callWhenRunning(on_hangup, reactor, reloading.hangup)
    services.append(service)
    for warning in options["warnings"]:
        reactor.callWhenRunning(log.warn, warning)
    if not options["claimed"] and settings.claimed is Claimed.ALLOW:
        reactor.callWhenRunning(log.warn, CLAIMS_ALLOWED)
    reactor.callWhenRunning(exit_cleanly_on_signals, reactor)
    return ExplainedStart(service, "proxyservice", getattr(options, "parent", None) or {})
