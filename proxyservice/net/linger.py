"""How a socket ends when nobody ends it: with RST, so that a transfer that was cut looks cut.

Whatever closes a process' sockets for it (`kill -9`, no memory, a crash), the
kernel does it as the socket says: by default in order, with FIN, and half of a
file looks like all of it. So the sockets of visitors and origins say RST from
their beginning to the moment when their end is due; from then on what is in the
kernel is delivered, and FIN follows it, whatever becomes of the process.
"""

from __future__ import annotations

import socket
import struct

_AT_ONCE = struct.pack("ii", 1, 0)  # unsent bytes are thrown away, and RST says so
_IN_ORDER = struct.pack("ii", 0, 0)


def reset_at_close(handle: socket.socket) -> None:
    """From now on closing it is RST. What a listening socket says, accepted ones inherit."""
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)


def end_in_order(handle: socket.socket) -> None:
    """Its end is due: everything that was written is delivered, then FIN."""
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _IN_ORDER)
