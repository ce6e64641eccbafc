"""What the other end's TCP has acknowledged: proof that a peer is there, without its program."""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any

from proxyservice.net.underneath import socket_underneath


def acknowledged_bytes(transport: Any) -> int | None:
    """Of everything sent on a main connection's transport; None where the system cannot tell.

    Linux: what the kernel took, less what it still has to send or has not seen
    acknowledged (SIOCOUTQ, the same number as TIOCOUTQ).
    """
    handle = socket_underneath(transport)
    try:
        answer = fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4))
    except (OSError, TypeError, ValueError):
        return None
    (unacknowledged,) = struct.unpack("i", answer)
    return int(transport.sent_bytes) - int(unacknowledged)
