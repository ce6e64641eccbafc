"""What an error means for a node: whether to ask that relay again, and when.

Decided here and nowhere else.

Final is what the same relay would say for ever to the same node
(docs/protocol.md, "Refusals"). Everything else time, the network or somebody
else may mend: it is tried again, for ever, at growing intervals. A person who
has just typed a command is better served by its end: an *impatient* node gives
up on what only its user can mend, as long as it never had a lease.

A table and nothing else: no timer, no clock, no count of servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from proxyservice.errors import (
    Distrust,
    ProxyServiceError,
    RefusedError,
    StartError,
    UntrustedError,
)
from proxyservice.wire import proxyservice_pb2 as pb

FAILED_STATUS = 1
SUPERSEDED_STATUS = 3

LONGEST_WAIT_SECONDS = 3600.0
"""Whatever a relay asks for: after an hour it is asked again."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Before the next attempt at one server: doubling from the first to the longest."""

    first_seconds: float
    longest_seconds: float
    quick_tries: int = 0
    """So many come before that at once: most losses are a restart."""
    full_jitter: bool = False
    """Anywhere between none and all of it, so that thousands do not come back in step."""


SHORT = Waits(1.0, 20.0, quick_tries=3, full_jitter=True)
MEDIUM = Waits(2.0, 300.0)
EVERY_FIVE_MINUTES = Waits(300.0, 300.0)
LONG = Waits(60.0, LONGEST_WAIT_SECONDS)


class Kind(Enum):
    """Of errors, as far as they are treated differently."""

    GONE = auto()
    """Not reached, closed, silent, broken, stopping; also whatever is not known here."""
    DATES = auto()
    CERTIFICATE = auto()
    OUR_CERTIFICATE = auto()
    CHANNEL = auto()
    PIN = auto()
    OWN_FILES = auto()
    MALFORMED = auto()
    UNSUPPORTED = auto()
    UNAUTHENTICATED = auto()
    DENIED = auto()
    QUOTA = auto()
    EXHAUSTED = auto()
    ADDRESS_UNAVAILABLE = auto()
    SUPERSEDED = auto()


@dataclass(frozen=True, slots=True)
class Treatment:
    """Of one kind of error."""

    waits: Waits
    is_final: bool = False
    """The same relay would say the same again, whenever it is asked."""
    users_alone: bool = False
    """Only who started the node can mend it, or it takes long: an impatient node ends."""


TREATMENTS: dict[Kind, Treatment] = {
    Kind.GONE: Treatment(SHORT),
    Kind.DATES: Treatment(MEDIUM),
    Kind.CERTIFICATE: Treatment(MEDIUM, users_alone=True),
    Kind.OUR_CERTIFICATE: Treatment(MEDIUM, users_alone=True),
    Kind.CHANNEL: Treatment(MEDIUM),
    Kind.PIN: Treatment(EVERY_FIVE_MINUTES, users_alone=True),
    Kind.OWN_FILES: Treatment(MEDIUM, users_alone=True),
    Kind.MALFORMED: Treatment(LONG, is_final=True),
    Kind.UNSUPPORTED: Treatment(LONG, is_final=True),
    Kind.UNAUTHENTICATED: Treatment(LONG, is_final=True),
    Kind.DENIED: Treatment(LONG, users_alone=True),
    Kind.QUOTA: Treatment(LONG, users_alone=True),
    Kind.EXHAUSTED: Treatment(MEDIUM, users_alone=True),
    Kind.ADDRESS_UNAVAILABLE: Treatment(MEDIUM, users_alone=True),
    Kind.SUPERSEDED: Treatment(LONG, is_final=True),
}

_REFUSED = {
    int(pb.REFUSAL_MALFORMED): Kind.MALFORMED,
    int(pb.REFUSAL_UNSUPPORTED): Kind.UNSUPPORTED,
    int(pb.REFUSAL_UNAUTHENTICATED): Kind.UNAUTHENTICATED,
    int(pb.REFUSAL_DENIED): Kind.DENIED,
    int(pb.REFUSAL_QUOTA): Kind.QUOTA,
    int(pb.REFUSAL_EXHAUSTED): Kind.EXHAUSTED,
    int(pb.REFUSAL_ADDRESS_UNAVAILABLE): Kind.ADDRESS_UNAVAILABLE,
    int(pb.REFUSAL_SUPERSEDED): Kind.SUPERSEDED,
}

_UNTRUSTED = {
    Distrust.PIN: Kind.PIN,
    Distrust.DATES: Kind.DATES,
    Distrust.CERTIFICATE: Kind.CERTIFICATE,
    Distrust.OURS: Kind.OUR_CERTIFICATE,
    Distrust.CHANNEL: Kind.CHANNEL,
}


def kind_of(error: ProxyServiceError) -> Kind:
    """Which row of the table an error has."""
    if isinstance(error, RefusedError):
        return _REFUSED.get(error.code, Kind.GONE)
    if isinstance(error, UntrustedError):
        return _UNTRUSTED[error.distrust]
    return Kind.OWN_FILES if isinstance(error, StartError) else Kind.GONE


def is_final(error: ProxyServiceError, *, impatient: bool = False) -> bool:
    """Whether that relay is not to be asked again.

    ``impatient``: somebody waits at a terminal, and the node never had a lease.
    """
    treatment = TREATMENTS[kind_of(error)]
    return treatment.is_final or (impatient and treatment.users_alone)


def is_superseded(error: ProxyServiceError) -> bool:
    """Whether another process with the same key took over: final for all relays of the list."""
    return kind_of(error) is Kind.SUPERSEDED


def hint_seconds(error: ProxyServiceError) -> float:
    """What the relay asked for, within reason: a hint that makes no sense is none."""
    hint = error.retry_after_seconds if isinstance(error, RefusedError) else 0.0
    return min(max(hint, 0.0), LONGEST_WAIT_SECONDS)


def exit_status(error: ProxyServiceError) -> int:
    """Of a process that has ended because of ``error``."""
    return SUPERSEDED_STATUS if is_superseded(error) else FAILED_STATUS
