"""How each relay is started: one small class each, all with the same few methods."""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.bore import Bore
from benchmarks.peers.chisel import Chisel
from benchmarks.peers.direct import Direct
from benchmarks.peers.frp import Frp
from benchmarks.peers.haproxy import Haproxy
from benchmarks.peers.proxyservice import ProxyService, ProxyServiceTLS
from benchmarks.peers.rathole import Rathole
from benchmarks.peers.socat import Socat
from benchmarks.peers.ssh import Ssh

# In the order of the table: the limit, the floor in C, the peers, this project.
ALL: tuple[type[Peer], ...] = (
    Direct,
    Socat,
    Haproxy,
    Rathole,
    Bore,
    Frp,
    Chisel,
    Ssh,
    ProxyService,
    ProxyServiceTLS,
)

__all__ = ["ALL", "Peer"]
