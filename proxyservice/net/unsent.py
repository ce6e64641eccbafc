"""How much the kernel may hold of a main connection beyond what is on its way.

TCP_NOTSENT_LOWAT bounds it, so that a small stream never waits behind megabytes
of a bulk stream in the send buffer. On a long path acknowledgements come in
bursts, and each makes room for more than the least bound at once: with 50 ms
and 0.3 Gbit/s it cost a tenth of the throughput. So the bound is half of what
the path holds, and what waits there delays a small stream by half a round trip.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

from proxyservice.net.underneath import socket_underneath

LEAST_UNSENT_BYTES: Final = 128 * 1024
MOST_UNSENT_BYTES: Final = 2 * 1024 * 1024

LOOK_EVERY_BYTES: Final = 1024 * 1024
"""How much is sent between two looks at the path: a look costs a microsecond."""

_MIN_RTT = struct.Struct("148xI")  # of Linux' struct tcp_info: microseconds
_DELIVERY_RATE = struct.Struct("160xQ")  # bytes a second
_TCP_INFO_BYTES = 168
_MICROSECONDS = 1_000_000


def path_bytes(tcp_info: bytes) -> int:
    """Return what the path holds: its shortest round trip at its latest rate; 0 if unknown."""
    if len(tcp_info) < _TCP_INFO_BYTES:
        return 0
    (round_trip,) = _MIN_RTT.unpack_from(tcp_info)
    (rate,) = _DELIVERY_RATE.unpack_from(tcp_info)
    return int(round_trip * rate // _MICROSECONDS)


class UnsentBound:
    """Fits the bound of one main connection; does nothing where the system cannot tell."""

    __slots__ = ("_bytes", "_handle", "_look_at")

    def __init__(self, transport: Any) -> None:
        self._handle = socket_underneath(transport) if hasattr(socket, "TCP_INFO") else None
        self._bytes = LEAST_UNSENT_BYTES
        self._look_at = LOOK_EVERY_BYTES

    def sent(self, sent_bytes: int) -> None:
        """So many bytes have been sent in all: time for another look, perhaps."""
        if sent_bytes < self._look_at or self._handle is None:
            return
        self._look_at = sent_bytes + LOOK_EVERY_BYTES
        try:
            self._fit(self._handle)
        except OSError:
            self._handle = None  # closing, or no TCP

    def _fit(self, handle: socket.socket) -> None:
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        half = min(max(path_bytes(info) // 2, LEAST_UNSENT_BYTES), MOST_UNSENT_BYTES)
        # The rate is that of the last burst of acknowledgements: up at once, down by and by.
        wanted = max(half, self._bytes - self._bytes // 8)
        if wanted != self._bytes:
            self._bytes = wanted
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, wanted)
