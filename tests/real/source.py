"""A server that sends zeros to everybody, as fast as each takes them: `source.py PORT`."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys

ZEROS = bytes(256 * 1024)


def main() -> None:
    os.nice(5)  # what is measured is not this
    selector = selectors.DefaultSelector()
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
    selector.register(listening, selectors.EVENT_READ)
    print("sending", flush=True)
    while True:
        for key, _ in selector.select():
            one = key.fileobj
            assert isinstance(one, socket.socket)
            if one is listening:
                visitor, _ = listening.accept()
                visitor.setblocking(False)
                selector.register(visitor, selectors.EVENT_WRITE)
                continue
            try:
                with contextlib.suppress(BlockingIOError):
                    one.send(ZEROS)
            except OSError:
                selector.unregister(one)
                one.close()


if __name__ == "__main__":
    main()
