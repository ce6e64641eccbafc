"""What systemd is told of the service: ready, alive, stopping (sd_notify(3)).

One datagram a word, to the socket that NOTIFY_SOCKET names; without it nothing
happens. Nothing here ever waits or fails: the service does not depend on being heard.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

from twisted.logger import Logger

FEEDS_PER_PERIOD = 3
"""How often the watchdog is fed in the time after which it bites."""

log = Logger()


class Notifier:
    """Whom NOTIFY_SOCKET names, and how often WATCHDOG_USEC wants to hear that we live."""

    def __init__(self, environment: Mapping[str, str], process_id: int) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._feed_seconds = 0.0  # 0: no watchdog
        if environment.get("WATCHDOG_PID", str(process_id)) == str(process_id):
            period = environment.get("WATCHDOG_USEC", "")
            is_number = re.fullmatch("[0-9]{1,15}", period)
            self._feed_seconds = int(period) / 1e6 / FEEDS_PER_PERIOD if is_number else 0.0
        self._feed_at = 0.0
        self._complained = False

    @classmethod
    def of_this_process(cls) -> Notifier:
        """As our environment says."""
        return cls(os.environ, os.getpid())

    def ready(self) -> None:
        """Nodes can connect."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """The stop has begun; it may take as long as the drain."""
        self._tell("STOPPING=1")

    def alive(self, now: float) -> None:
        """The reactor turns; to be called more often than the watchdog wants to hear."""
        if self._feed_seconds and now >= self._feed_at:
            self._feed_at = now + self._feed_seconds
            self._tell("WATCHDOG=1")

    def _tell(self, word: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
                teller.setblocking(False)
                teller.sendto(word.encode(), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warn("NOTIFY_SOCKET does not take {word}: {error}", word=word, error=error)
