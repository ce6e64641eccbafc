"""`twistd proxynode`: what `proxyservice expose` does, as a service."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.python import usage

from proxyservice.errors import ProxyServiceError
from proxyservice.node.events import EndingEvents
from proxyservice.node.exposure import Exposure, read_settings
from proxyservice.node.finality import exit_status
from proxyservice.node.proxy_protocol import HEADERS
from proxyservice.options import NO_BUSY_POLL, PluginOptions
from proxyservice.output import settle
from proxyservice.process import (
    ExplainedStart,
    exit_cleanly_on_signals,
    prepare_reactor,
    tell_version,
)


class Options(PluginOptions):
    """Options of `twistd proxynode`; docs/node.md explains them."""

    command = "proxynode"
    synopsis = "[options]"
    longdesc = "Give local servers public addresses: --via HOST[:PORT] --expose TARGET ..."
    optParameters: ClassVar[list[list[str | None]]] = [
        ["key", None, "", "Key file. [default: node.key in the state directory]"],
        ["port", None, "", "Ask for this port."],
        ["label", None, "", "Text for the relay's operator."],
        ["proxy-protocol", None, "", "v1 or v2: tell the target the visitor's address."],
        ["ca", None, "", "Authorities (PEM) of relays with tls:. [default: the system's]"],
        ["cert", None, "", "Certificate (PEM) to show, for relays that want one."],
        ["cert-key", None, "", "Its key (PEM). [default: in the same file]"],
        ["token", None, "", "File with a token. [default: $PROXYSERVICE_TOKEN, else none]"],
        ["state-dir", None, "", "[default: $STATE_DIRECTORY, else the XDG state directory]"],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        ["release", None, "Give the addresses back at the end."],
        ["port-or-any", None, "Take any other when the port of --port is unavailable."],
        NO_BUSY_POLL,
    ]

    def __init__(self) -> None:
        super().__init__()
        self["via"] = []
        self["expose"] = []
        self["pin"] = []

    def opt_via(self, server: str) -> None:
        """Relay, HOST[:PORT]; may be repeated, they are tried in turn."""
        self["via"].append(server)

    def opt_expose(self, target: str) -> None:
        """Port, HOST:PORT or client endpoint to expose; may be repeated."""
        self["expose"].append(target)

    def opt_pin(self, pin: str) -> None:
        """SHA-256 (hex) of the public key of a relay with tls:; may be repeated."""
        self["pin"].append(pin)

    def postOptions(self) -> None:
        """Check all of it."""
        for name in ("via", "expose"):
            if not self[name]:
                raise usage.UsageError(f"--{name} is needed")
        version = self["proxy-protocol"] or None
        if version is not None and version not in HEADERS:
            raise usage.UsageError(f"--proxy-protocol {version}: v1 or v2")
        try:
            self["settings"] = read_settings(
                self["expose"],
                self["via"],
                key=Path(self["key"]) if self["key"] else None,
                state_dir=self["state-dir"],
                port=_port(self["port"]) if self["port"] else None,
                port_or_any=bool(self["port-or-any"]),
                label=self["label"],
                proxy_protocol=version,
                release=bool(self["release"]),
                ca=Path(self["ca"]) if self["ca"] else None,
                pin=self["pin"],
                cert=Path(self["cert"]) if self["cert"] else None,
                cert_key=Path(self["cert-key"]) if self["cert-key"] else None,
                token=Path(self["token"]) if self["token"] else None,
            )
        except (ValueError, ProxyServiceError) as error:
            raise usage.UsageError(str(error)) from None


def _port(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no port; from 1 to 65535")
    return int(text)


def _exit(status: int) -> None:
    settle()  # the last lines of the log say why
    os._exit(status)


def makeService(options: Options) -> Service:
    """Wire the service; key and pins are read when it starts."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    tell_version("proxynode")
    prepare_reactor(reactor, busy_poll=not options["no-busy-poll"])
    settings = options["settings"]

    def hopeless(error: ProxyServiceError) -> None:
        # twistd has no exit status of its own; its log is closed by then
        atexit.register(_exit, exit_status(error))
        reactor.callLater(0, reactor.stop)

    exposure = Exposure(reactor, settings, EndingEvents(len(settings.targets), hopeless))
    reactor.callWhenRunning(exit_cleanly_on_signals, reactor)
    return ExplainedStart(exposure, "proxynode", getattr(options, "parent", None) or {})
