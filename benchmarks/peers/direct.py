"""No relay at all: the limit of the machine and of the load programs."""

from __future__ import annotations

from benchmarks.origin import Ports
from benchmarks.peers.base import Peer


class Direct(Peer):
    """Visitors connect to the origin itself."""

    name = "direct"
    options = "no relay"

    def launch(self, target: Ports) -> Ports:
        return target
