"""Ports for servers that a test starts a moment later."""

from __future__ import annotations

import os
import random
import socket

_POSSIBLE = range(10_000, 19_000)
"""Below the leased ranges of the tests, and outside the kernel's ephemeral ports: a port
that was asked of the kernel is now and then some outgoing connection's before it is used."""

_choice = random.Random(os.getpid())


def unused_port() -> int:
    """A TCP port that nobody listens on, IPv4 or IPv6."""
    while True:
        port = _choice.choice(_POSSIBLE)
        try:
            with socket.create_server(("", port)):
                return port
        except OSError:
            continue
