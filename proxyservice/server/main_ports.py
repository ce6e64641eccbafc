"""What `--listen` says of one main port: an endpoint, and what stands before the first frame.

`tls:` in front: TLS. `haproxy:`: a PROXY header, in which a front end on this
machine tells whose connection it passes on. `tls:haproxy:`: the header in
plain, then TLS, as a front end has it that passes TLS on unopened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxyservice.net.eager import EagerServer
from proxyservice.net.tls_transport import tls_factory
from proxyservice.server.factory import MainFactory
from proxyservice.server.front_end import FrontedServer, FrontEndFactory
from proxyservice.server.tls import ServerCertificate

TLS_PREFIX = "tls:"
FRONT_END_PREFIX = "haproxy:"


@dataclass(frozen=True, slots=True)
class MainPort:
    """One `--listen`, taken apart; ``endpoint`` is Twisted's."""

    endpoint: str
    tls: bool
    front_end: bool

    @classmethod
    def parse(cls, description: str) -> MainPort:
        """Raises ValueError; the endpoint itself is not looked at."""
        inner = description.removeprefix(TLS_PREFIX)
        endpoint = inner.removeprefix(FRONT_END_PREFIX)
        front_end = endpoint != inner
        if front_end and endpoint.startswith((TLS_PREFIX, "ssl:")):
            raise ValueError("the PROXY header comes before TLS: write it as tls:haproxy:tcp:6009")
        return cls(endpoint, inner != description, front_end)

    def factory(self, main: MainFactory, certificate: ServerCertificate | None) -> Any:
        """What to listen with; ``certificate`` is for TLS."""
        factory: Any = main
        if self.tls:
            factory = tls_factory(certificate, factory, is_client=False)
        return FrontEndFactory(factory, main) if self.front_end else factory

    @property
    def transport(self) -> type[EagerServer]:
        """Of an accepted connection."""
        return FrontedServer if self.front_end else EagerServer
