"""Visitors that read as fast as they can: `readers.py HOST PORT COUNT SECONDS`.

Prints how many bytes each got within the time, as JSON, once all of them have
got their first byte.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time

BUFFER = bytearray(256 * 1024)


def main() -> None:
    os.nice(5)  # what is measured is not this
    host, port, count, seconds = sys.argv[1], *map(float, sys.argv[2:])
    selector = selectors.DefaultSelector()
    visitors = [socket.create_connection((host, int(port))) for _ in range(int(count))]
    for visitor in visitors:
        assert visitor.recv_into(BUFFER, 1) == 1
        visitor.setblocking(False)
        selector.register(visitor, selectors.EVENT_READ)
    print("reading", flush=True)
    got = dict.fromkeys(visitors, 0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for key, _ in selector.select(0.1):
            visitor = key.fileobj
            assert isinstance(visitor, socket.socket)
            received = visitor.recv_into(BUFFER)
            assert received, "a bulk stream never ends"
            got[visitor] += received
    print(json.dumps(list(got.values())), flush=True)


if __name__ == "__main__":
    main()
