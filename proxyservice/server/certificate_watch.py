"""Says in good time that a certificate ends, and goes on saying it: the old one stays in use.

A renewal that never reached the service is seen by nobody else before nodes refuse the relay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from twisted.logger import Logger

DAY = 86400.0
WARNED_SECONDS = 14 * DAY
"""Certificates are renewed 30 days before their end; one that is this late has failed to be."""

LOOK_SECONDS = 3600.0
"""How often the wall clock is looked at; it may be set, and a machine may have slept."""

log = Logger()


@dataclass(frozen=True, slots=True)
class Validity:
    """When what a file holds begins and ends to be good; seconds since 1970."""

    path: Path
    begins: float
    ends: float


class CertificateWatch:
    """``validities`` says what is in use now; ``wall`` is the wall clock."""

    def __init__(
        self,
        reactor: Any,
        validities: Callable[[], Iterable[Validity]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._validities = validities
        self._wall = wall
        self._said: dict[Path, tuple[str, float]] = {}  # what kind of warning, and when

    def start(self) -> None:
        """Say now what is to be said, and then each day."""
        self.look()
        self._reactor.callLater(LOOK_SECONDS, self._again)

    def look(self) -> None:
        """Files were read: say what is to be said of them, whatever was said before."""
        self._said.clear()
        self._look()

    def _again(self) -> None:
        self._reactor.callLater(LOOK_SECONDS, self._again)
        self._look()

    def _look(self) -> None:
        now = self._wall()
        for one in self._validities():
            kind = _kind(one, now)
            before, said_at = self._said.get(one.path, ("", 0.0))
            if kind and (kind != before or not 0 <= now - said_at < DAY):
                self._said[one.path] = kind, now
                _WARNINGS[kind](one, now)


def _kind(one: Validity, now: float) -> str:
    if now >= one.ends:
        return "ended"
    if now < one.begins:
        return "not yet"
    return "soon" if one.ends - now <= WARNED_SECONDS else ""


def _soon(one: Validity, now: float) -> None:
    hours = int((one.ends - now) / 3600)
    log.warn(
        "certificate {path} ends in {left}, at {ends}; renew it, and send SIGHUP",
        path=one.path,
        left=f"{hours // 24} days" if hours >= 48 else f"{hours} hours",
        ends=_shown(one.ends),
    )


def _ended(one: Validity, now: float) -> None:
    log.error(
        "certificate {path} has ended at {ends}, and is refused; renew it, and send SIGHUP",
        path=one.path,
        ends=_shown(one.ends),
    )


def _not_yet(one: Validity, now: float) -> None:
    log.error(
        "certificate {path} is good from {begins} on, and is refused until then; "
        "look at the clock of this machine",
        path=one.path,
        begins=_shown(one.begins),
    )


_WARNINGS = {"ended": _ended, "soon": _soon, "not yet": _not_yet}


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
