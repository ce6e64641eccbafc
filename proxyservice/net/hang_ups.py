"""Which connections that nobody reads are over: one question to the kernel for all of them."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_ENDED = getattr(select, "POLLRDHUP", 0x2000)  # the peer has sent its last byte, or all is over
_OVER = select.POLLERR | select.POLLHUP


def hung_up(connections: Iterable[tuple[T, Any]]) -> tuple[list[T], list[T]]:
    """Of these (name, transport): whose peer has reset it, and whose has only ended its side.

    What is no socket of this process counts as there.
    """
    poll = select.poll()
    names: dict[int, T] = {}
    for name, transport in connections:
        handle = getattr(transport, "socket", None)
        if isinstance(handle, socket.socket) and handle.fileno() >= 0:
            names[handle.fileno()] = name
            poll.register(handle, _ENDED)
    reset, ended = list[T](), list[T]()
    for descriptor, events in poll.poll(0) if names else ():
        (reset if events & _OVER else ended).append(names[descriptor])
    return reset, ended
