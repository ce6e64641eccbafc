"""The socket underneath a main connection's transport, be TLS between them or not."""

from __future__ import annotations

from typing import Any


def socket_underneath(transport: Any) -> Any:
    """For options and questions to the kernel; what is sent goes through the transport."""
    return getattr(transport, "socket_handle", transport.getHandle)()
