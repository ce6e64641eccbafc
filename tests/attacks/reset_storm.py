"""`python -m tests.attacks.reset_storm PORT COUNT`: connect and reset, and print how often.

A program of its own, so that it does not slow whoever measures.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def main(port: int, count: int) -> int:
    made = 0
    for _ in range(count):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as visitor:
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            made += 1
    return made


if __name__ == "__main__":
    print(main(int(sys.argv[1]), int(sys.argv[2])))
