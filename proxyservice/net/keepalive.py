"""Socket options that find dead peers, for those who may not be silent and those who may."""

from __future__ import annotations

import socket
from typing import Any

from proxyservice.net.linger import reset_at_close
from proxyservice.net.underneath import socket_underneath
from proxyservice.net.unsent import LEAST_UNSENT_BYTES

KEEPALIVE_IDLE_SECONDS = 15.0
KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 5, 3
USER_TIMEOUT_SECONDS = 30.0
"""Unacknowledged data for so long means a dead path. Main connections only: a
zero window counts as dead too, and a visitor may pause reading."""


def configure_main_connection(
    transport: Any,
    idle_seconds: float = KEEPALIVE_IDLE_SECONDS,
    unacknowledged_seconds: float = USER_TIMEOUT_SECONDS,
) -> None:
    """Find dead peers though they need not speak: TCP asks for us."""
    options = (
        ("TCP_KEEPIDLE", max(1, round(idle_seconds))),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", round(unacknowledged_seconds * 1000)),
        ("TCP_NOTSENT_LOWAT", LEAST_UNSENT_BYTES),
    )
    transport.setTcpNoDelay(True)
    transport.setTcpKeepAlive(True)
    handle = socket_underneath(transport)
    for option, value in options:
        if hasattr(socket, option):
            handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def configure_visitor(handle: socket.socket) -> None:
    """Find dead visitors and origins, however long they choose not to read; cut them with RST."""
    reset_at_close(handle)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
