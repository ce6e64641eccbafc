"""`send` on whatever Python this is, without a copy of what is sent.

CPython hands the kernel the address of a view. PyPy's `socket.send` first makes
a string of it, byte by byte: 7 us for 128 KiB, as long as the kernel takes to
copy them. There cffi, which PyPy brings along, makes the same call.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from socket import socket

Send = Callable[[socket, "bytes | bytearray | memoryview"], int]
"""How many bytes the kernel took. Raises OSError, as `socket.send` does."""


def lending_send() -> Send:
    """The C library's, called with the address of the bytes; needs cffi."""
    from cffi import FFI

    ffi = FFI()
    ffi.cdef("ssize_t send(int descriptor, const void *data, size_t length, int flags);")
    library = ffi.dlopen(None)

    def send(connected: socket, data: bytes | bytearray | memoryview) -> int:
        sent: int = library.send(connected.fileno(), ffi.from_buffer(data), len(data), 0)
        if sent < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        return sent

    return send


send: Send = lending_send() if platform.python_implementation() == "PyPy" else socket.send
