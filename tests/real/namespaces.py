"""A relay and a node in network namespaces of their own, and a router between them that may forget.

Packets are dropped by a router that forwards no more: no end sees an error, a
link that went down or a reset, as when a cable is cut far away.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.real.conftest import program

RELAY, ROUTER, NODE = "relay", "router", "node"
RELAY_ADDRESS = "198.18.1.1"
"""Of the range that is set aside for tests of networks (RFC 2544)."""


class BlackHole:
    """Three namespaces in a row; `open_up` and `swallow` say what the middle one does."""

    def __init__(self) -> None:
        self._names = {side: f"bh-{side}-{os.getpid()}" for side in (RELAY, ROUTER, NODE)}
        self._ip = program("ip") or "ip"

    @staticmethod
    def permitted() -> bool:
        """Whether this process may make namespaces."""
        ip, name = program("ip"), f"bh-probe-{os.getpid()}"
        if ip is None or os.getuid() != 0:
            return False
        made = subprocess.run([ip, "netns", "add", name], capture_output=True).returncode == 0
        if made:
            subprocess.run([ip, "netns", "delete", name], capture_output=True)
        return made

    def __enter__(self) -> BlackHole:
        try:
            for name in self._names.values():
                self._do("netns", "add", name)
                self._do("-n", name, "link", "set", "lo", "up")
            self._join(RELAY, "198.18.1")
            self._join(NODE, "198.18.2")
            self.open_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for name in self._names.values():
            subprocess.run([self._ip, "netns", "delete", name], capture_output=True)

    def _join(self, side: str, network: str) -> None:
        far, router = self._names[side], self._names[ROUTER]
        ends = ("type", "veth", "peer", "name", side, "netns", router)
        self._do("link", "add", "wire", "netns", far, *ends)
        for name, device, host in ((far, "wire", 1), (router, side, 254)):
            self._do("-n", name, "address", "add", f"{network}.{host}/24", "dev", device)
            self._do("-n", name, "link", "set", device, "up")
        self._do("-n", far, "route", "add", "default", "via", f"{network}.254")

    def command(self, side: str, *words: object) -> list[object]:
        """How to run this on one side."""
        return [self._ip, "netns", "exec", self._names[side], *words]

    def open_up(self) -> None:
        """Packets pass."""
        self._forward(1)

    def swallow(self) -> None:
        """Packets vanish."""
        self._forward(0)

    def _forward(self, value: int) -> None:
        path = Path("/proc/sys/net/ipv4/ip_forward")
        words = self.command(ROUTER, "sh", "-c", f"echo {value} >{path}")
        subprocess.run([str(word) for word in words], check=True, timeout=10)

    def _do(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True, timeout=10)
