"""What a connection's TCP waits for, and when the peer's last answered: asked of the kernel.

Linux tells (TCP_INFO). Elsewhere nobody does, and whoever asks has to do without.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any, Final

from proxyservice.net.underneath import socket_underneath

_TCP_INFO: Final = 11  # Linux's number; PyPy has no name for it
_TCP_INFO_BYTES: Final = 148
_PROBES = struct.Struct("3xB")  # of Linux' struct tcp_info: unanswered ones, whatever they ask
_UNACKNOWLEDGED = struct.Struct("24xI")  # segments
_HEARD_AGO = struct.Struct("56xI")  # milliseconds since an acknowledgement of any kind
_NOT_SENT = struct.Struct("144xI")  # bytes that the kernel holds back


@dataclass(frozen=True, slots=True)
class TcpAnswers:
    """What one connection's TCP waits for, and when it last heard an acknowledgement."""

    unacknowledged: bool
    """Something was sent that is not acknowledged."""
    unanswered_probes: int
    """Of a peer that is silent, or whose window is closed."""
    held_back: bool
    """The kernel has bytes that it may not send yet."""
    heard_ago_seconds: float
    """Since the last acknowledgement: of data, or of a probe."""

    @property
    def reads_nothing_and_lives(self) -> bool:
        """The peer's window is closed, and it has answered all that it was asked since."""
        return self.held_back and not self.unacknowledged and not self.unanswered_probes

    def alive_within(self, seconds: float) -> bool:
        """Nothing is owed, or something was answered so lately."""
        owes = self.unacknowledged or self.unanswered_probes
        return not owes or self.heard_ago_seconds < seconds


def tcp_answers(transport: Any) -> TcpAnswers | None:
    """Ask the kernel about a transport's connection; None where it cannot tell."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        handle = socket_underneath(transport)
        info = handle.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
    except (OSError, AttributeError):
        return None  # closed, or no TCP
    if len(info) < _TCP_INFO_BYTES:
        return None
    (probes,) = _PROBES.unpack_from(info)
    (unacknowledged,) = _UNACKNOWLEDGED.unpack_from(info)
    (heard_ago_ms,) = _HEARD_AGO.unpack_from(info)
    (not_sent,) = _NOT_SENT.unpack_from(info)
    return TcpAnswers(unacknowledged > 0, probes, not_sent > 0, heard_ago_ms / 1000)
