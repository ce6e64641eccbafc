"""What twistd and endpoint strings find. Loaded by every program that looks for plugins: light."""

import os
import sys
from typing import Any

from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import (
    IReactorCore,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer


class OwnService(ServiceMaker):
    """Chosen on twistd's command line, so that the process is ours from then on."""

    @property
    def options(self) -> Any:
        """Class of its options; to import it takes most of the time until the service runs."""
        if os.path.basename(sys.argv[0]).startswith("twistd"):
            from proxyservice.signals import end_at_once_on_signals

            end_at_once_on_signals()
        return super().options


proxyservice = OwnService(
    "proxyservice",
    "proxyservice.tap",
    "Lease public addresses to nodes behind NAT",
    "proxyservice",
)

proxynode = OwnService(
    "proxynode",
    "proxyservice.node_tap",
    "Give local servers public addresses",
    "proxynode",
)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class ProxiedEndpointParser:
    """`proxied:HOST[:PORT]` wherever an endpoint string is taken (docs/node.md)."""

    prefix = "proxied"

    def parseStreamServer(
        self, reactor: IReactorCore, *args: object, **kwargs: object
    ) -> IStreamServerEndpoint:
        """Raise ValueError for what cannot be read."""
        from proxyservice.node.endpoint import parse_endpoint

        options = {name: str(value) for name, value in kwargs.items()}
        return parse_endpoint(reactor, [str(arg) for arg in args], options)


proxied = ProxiedEndpointParser()
