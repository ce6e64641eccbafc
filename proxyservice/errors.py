"""Every error that this package raises on purpose.

Kinds that are never mixed: a peer that broke the protocol (`PeerError`: its
connection ends, nobody else's), a request that cannot be granted
(`RefusedError`: told to the node with a code), a relay or peer that a node
cannot use (`UnreachableError`, `UntrustedError`), and something wrong on our
side that the operator must know (`StartError`, `StoreError`).
"""

from __future__ import annotations

from enum import Enum, auto

from proxyservice.text import printable

LONGEST_CHARACTERS = 1000
"""Of an error's text; no sentence of ours is longer, with all the paths in it."""


class ProxyServiceError(Exception):
    """Base of all errors declared here; its text is one line for people.

    Errors are where texts of peers, of certificates and of other libraries
    enter our own sentences; so it is here that they are made printable.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text, LONGEST_CHARACTERS))


class PeerError(ProxyServiceError):
    """The peer broke the protocol; end this connection and no other."""


class FrameError(PeerError):
    """A frame, its header, compression or message is not acceptable."""


class StreamError(PeerError):
    """A stream frame broke the rules of ids, states or credit."""


class RefusedError(ProxyServiceError):
    """A request that cannot be granted.

    ``code`` is a value of ``RefusalCode`` in ``proto/proxyservice.proto``;
    ``retry_after_seconds`` is 0 when there is no use in naming a moment.
    """

    def __init__(self, code: int, reason: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = str(self)
        self.retry_after_seconds = retry_after_seconds


class UnreachableError(ProxyServiceError):
    """A relay or peer that cannot be reached, does not answer, or went away."""


class Distrust(Enum):
    """What is wrong with a relay that is not trusted, and so who can mend it."""

    PIN = auto()
    """It is not the relay that was pinned: another one, or somebody in between."""
    DATES = auto()
    """Its certificate has expired or is not valid yet: a renewal or a clock mends that."""
    CERTIFICATE = auto()
    """An authority that is not known here, or another name: the user mends that."""
    OURS = auto()
    """It does not take the certificate that this node shows, or wants to see one."""
    CHANNEL = auto()
    """What it says is bound to another connection than this one."""


class UntrustedError(ProxyServiceError):
    """A relay that cannot be trusted; nothing was said to it."""

    def __init__(self, text: str, distrust: Distrust = Distrust.PIN) -> None:
        super().__init__(text)
        self.distrust = distrust


class StoreError(ProxyServiceError):
    """The lease store cannot be opened, read or written."""


class StartError(ProxyServiceError):
    """The service cannot start; the text says what is wrong, where, and what to do."""
