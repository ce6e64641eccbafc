"""Socket options that find dead peers, for those who may not be silent and those who may."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, Final

from proxyservice.net.linger import reset_at_close
from proxyservice.net.underneath import socket_underneath
from proxyservice.net.unsent import LEAST_UNSENT_BYTES

KEEPALIVE_IDLE_SECONDS: Final = 15.0
KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 5, 3
USER_TIMEOUT_SECONDS: Final = 30.0
"""A main connection whose TCP acknowledges nothing of what it was sent for so long is dead."""

VANISHED_SECONDS: Final = 90.0
"""A visitor or an origin whose TCP does not answer for so long has vanished: its machine has lost
power or network, or a NAT on the way has forgotten it. Linux's own two hours keep its place."""

_TCP_RTO_MAX_MS: Final = 44  # Linux 6.15; Python has no name for it
_LONGEST_RTO_MS: Final = 15_000
"""Between two tries of TCP. Its own two minutes would be all the time that a peer has."""


def configure_main_connection(
    transport: Any,
    idle_seconds: float = KEEPALIVE_IDLE_SECONDS,
    unacknowledged_seconds: float | None = USER_TIMEOUT_SECONDS,
) -> None:
    """Find dead peers though they need not speak: TCP asks for us.

    With ``unacknowledged_seconds`` the kernel ends a connection that acknowledges nothing for so
    long, and one whose peer lives but reads nothing; None leaves that to `net/vanished.py`.
    """
    options = [
        ("TCP_KEEPIDLE", max(1, round(idle_seconds))),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_NOTSENT_LOWAT", LEAST_UNSENT_BYTES),
    ]
    if unacknowledged_seconds is not None:
        options.append(("TCP_USER_TIMEOUT", round(unacknowledged_seconds * 1000)))
    transport.setTcpNoDelay(True)
    transport.setTcpKeepAlive(True)
    _set(socket_underneath(transport), options)


def configure_visitor(handle: socket.socket, vanished_seconds: float = VANISHED_SECONDS) -> None:
    """Find dead visitors and origins, however long they choose not to read; cut them with RST.

    Two thirds of the time pass in silence, then TCP asks three times. What is sent and not
    acknowledged is `net/vanished.py`'s to see.
    """
    reset_at_close(handle)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    ninth = max(1, round(vanished_seconds / 9))
    options = [
        ("TCP_KEEPIDLE", max(1, round(vanished_seconds * 2 / 3))),
        ("TCP_KEEPINTVL", ninth),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ]
    _set(handle, options)
    with suppress(OSError):  # an older kernel
        handle.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _LONGEST_RTO_MS)


def _set(handle: socket.socket, options: list[tuple[str, int]]) -> None:
    for option, value in options:
        if hasattr(socket, option):
            handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
