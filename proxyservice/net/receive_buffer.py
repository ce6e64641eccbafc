"""How much the kernel keeps of a peer that is not read for a while.

Left alone, Linux keeps 128 KiB of each connection, and megabytes of one that
was read quickly before. Whoever waits unread for seconds gets a small buffer
meanwhile, and afterwards one that grows again by itself.
"""

from __future__ import annotations

import socket
from typing import Any

SMALL_BYTES = 16 * 1024
"""Linux doubles it: 32 KiB were seen to be taken of a peer that sends megabytes. The first
messages of a node have 150 bytes, so none of them waits for room."""

ORDINARY_BYTES = 512 * 1024
"""What the buffer is set to where the kernel cannot be told to let it grow by itself."""

_SO_BUF_LOCK = 72
"""Linux 5.14: which buffers keep a size that was set by hand; 0: none, they grow as before."""


class ReceiveBuffer:
    """Of one connection; what is no TCP socket of this process is left as it is."""

    __slots__ = ("_before_bytes",)

    def __init__(self) -> None:
        self._before_bytes = 0

    def shrink(self, transport: Any) -> None:
        """The peer is not read from now on."""
        handle = _socket_of(transport)
        if handle is not None:
            self._before_bytes = handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)

    def restore(self, transport: Any) -> None:
        """It is read again: it has its old buffer, which grows again."""
        handle = _socket_of(transport)
        if handle is None or not self._before_bytes:
            return
        # The kernel tells twice of what it was given.
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._before_bytes // 2)
        try:
            handle.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)
        except OSError:
            at_least_bytes = max(self._before_bytes // 2, ORDINARY_BYTES)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, at_least_bytes)


def _socket_of(transport: Any) -> socket.socket | None:
    handle = getattr(transport, "socket", None)
    return handle if isinstance(handle, socket.socket) else None
