"""What the live line of `proxyservice expose` says until visitors can come.

Who is tried, how often, and what went wrong the last time.
"""

from __future__ import annotations

from proxyservice.text import printable
from proxyservice.units import format_duration


def in_time(seconds: float) -> str:
    """`0.2 s`, `59.0 s`, `5m`, `1h`: how long until the next attempt."""
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(round(seconds))


class Connecting:
    """Told what happens to a node; ``now`` is monotonic seconds."""

    def __init__(self) -> None:
        self._server = ""
        self._reason = ""
        self._attempts = 0
        self._again_at: float | None = None
        self._is_connected = self._is_reachable = False

    def dialling(self, server: str) -> None:
        """An attempt begins."""
        self._server, self._again_at = server, None
        self._attempts += 1

    def connected(self) -> None:
        """There is a main connection; an address will follow."""
        self._is_connected, self._reason = True, ""

    def delayed(self, reason: str) -> None:
        """The relay has no address now."""
        self._reason = printable(reason)

    def reachable(self) -> None:
        """There is an address."""
        self._is_connected = self._is_reachable = True
        self._attempts, self._reason = 0, ""

    def lost(self, server: str, reason: str, again_at: float) -> None:
        """No connection, or no longer."""
        self._is_connected = self._is_reachable = False
        self._server, self._reason, self._again_at = server, printable(reason), again_at

    def line(self, now: float) -> str:
        """One line; empty while visitors can come."""
        if self._is_reachable:
            return ""
        if self._is_connected:
            why = f": {self._reason}" if self._reason else ""
            return f"connected to {self._server}, no address yet{why}"
        why = f"; {self._reason}" if self._reason else ""
        if self._again_at is None:
            count = f" (attempt {self._attempts})" if self._attempts > 1 else ""
            return f"connecting to {self._server}{count}{why}"
        wait_seconds = max(0.0, self._again_at - now)
        return f"not connected to {self._server}, trying again in {in_time(wait_seconds)}{why}"
