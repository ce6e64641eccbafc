"""The socket underneath a transport, be TLS between them or not."""

from __future__ import annotations

import socket
from typing import Any


def socket_underneath(transport: Any) -> Any:
    """For options and questions to the kernel; what is sent goes through the transport."""
    return getattr(transport, "socket_handle", transport.getHandle)()


def tcp_socket(transport: Any) -> socket.socket | None:
    """The socket of a transport that is TCP and nothing else; None for any other."""
    handle = getattr(transport, "socket", None)
    if isinstance(handle, socket.socket) and handle.family in (socket.AF_INET, socket.AF_INET6):
        return handle
    return None
