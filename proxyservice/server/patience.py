"""How long a main connection may keep us waiting, and for what.

Five waits, each with its own end: to say who it is, to have a lease, to be heard
again (part B only: deployed nodes may fall silent), to take queued bytes, to close.
Knows no clock and no transport; `MainConnection` reports events and asks for a verdict.
"""

from __future__ import annotations

from enum import Enum
from math import inf

from proxyservice.server.limits import ServiceLimits

LOOKS = 4
"""How often, in the time that it may be without one, a connection is asked for its lease."""


class Late(Enum):
    """What was waited for in vain; the value is the word for the log."""

    IDENTITY = "no ProxyRequest in time"
    LEASELESS = "no lease for too long"
    SILENT = "silent"
    STALLED = "takes no data"
    CLOSE = "close"
    ABORT = "does not close"


class Patience:
    """The deadlines of one main connection; times are seconds of the caller's clock."""

    __slots__ = (
        "_abort_by",
        "_close_by",
        "_heard_at",
        "_identity_by",
        "_lease_by",
        "_leaseless_since",
        "_limits",
        "_progress_bytes",
        "_silence_seconds",
        "_stalled_by",
    )

    def __init__(self, limits: ServiceLimits, now: float) -> None:
        self._limits = limits
        self._heard_at = -inf
        self._silence_seconds = inf
        self._identity_by = now + limits.seconds_to_first_byte
        self._lease_by = inf
        self._leaseless_since = now
        self._stalled_by = inf
        self._progress_bytes = 0
        self._close_by = inf
        self._abort_by = inf

    def heard(self, now: float) -> bool:
        """Bytes came; true if they are the first, which makes the next deadline an earlier one."""
        first, self._heard_at = self._heard_at == -inf, now
        if first:
            self._identity_by = now + self._limits.seconds_to_identity
        return first

    @property
    def has_spoken(self) -> bool:
        """A byte came."""
        return self._heard_at != -inf

    def spared(self, now: float) -> None:
        """It may go on saying nothing for as long again."""
        self._identity_by = now + self._limits.seconds_to_first_byte

    def identified(self, now: float, silence_seconds: float) -> None:
        """It said who it is; `silence_seconds` is inf for a node that need not be heard."""
        self._identity_by = inf
        self._silence_seconds = silence_seconds
        self.looked_at(now, has_lease=True)  # it has as long to ask for one

    def looked_at(self, now: float, *, has_lease: bool) -> bool:
        """After `Late.LEASELESS`: whether it has been without a lease for too long."""
        if has_lease:
            self._leaseless_since = now
        seconds = self._limits.seconds_without_lease
        self._lease_by = now + seconds / LOOKS
        return now - self._leaseless_since >= seconds

    def queued(self, now: float, sent_bytes: int) -> bool:
        """Bytes wait for the peer; true if they only now began to."""
        if self._stalled_by != inf:
            return False
        self._stalled_by = now + self._limits.write_stall_seconds
        self._progress_bytes = sent_bytes
        return True

    def drained(self) -> None:
        """The peer has taken everything."""
        self._stalled_by = inf

    def close_later(self, now: float, after_seconds: float) -> None:
        """Close after a while, unless the peer does; who it is matters no more."""
        self._identity_by = self._lease_by = inf
        self._close_by = min(self._close_by, now + after_seconds)

    def closing(self, now: float) -> None:
        """A close has begun; what is not closed in time is aborted."""
        self._close_by = self._identity_by = self._silence_seconds = self._lease_by = inf
        self._abort_by = now + self._limits.close_timeout_seconds

    def verdict(self, now: float, sent_bytes: int) -> Late | None:
        """What the peer is late with, if anything; `sent_bytes` went out in all."""
        if now >= self._abort_by:
            return Late.ABORT
        if now >= self._close_by:
            return Late.CLOSE
        if now >= self._identity_by:
            return Late.IDENTITY
        if now >= self._stalled_by:
            if sent_bytes == self._progress_bytes:
                return Late.STALLED
            self._progress_bytes = sent_bytes
            self._stalled_by = now + self._limits.write_stall_seconds
        if now >= self._heard_at + self._silence_seconds:
            return Late.SILENT
        if now >= self._lease_by:
            return Late.LEASELESS
        return None

    def next_deadline(self) -> float | None:
        """When to ask for a verdict again."""
        silent_by = self._heard_at + self._silence_seconds if self._heard_at != -inf else inf
        at = min(
            *(self._identity_by, self._lease_by, silent_by),
            *(self._stalled_by, self._close_by, self._abort_by),
        )
        return None if at == inf else at
