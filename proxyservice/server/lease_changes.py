"""How often leases may begin and move: of one key, and of one source or token.

Each such change is a row of the history and a few lines of the log, and with a Release after
each request a node could make hundreds a second. Who comes back to a lease changes none: that
is never counted and never refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxyservice.errors import RefusedError
from proxyservice.leases.buckets import Buckets
from proxyservice.leases.lease import Identity
from proxyservice.leases.quota import KNOWN, counted_source
from proxyservice.server.settings import ServiceSettings
from proxyservice.wire import proxyservice_pb2 as pb


class LeaseChanges:
    """One for a service; `now` is the monotonic clock, in seconds."""

    def __init__(self, settings: ServiceSettings, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._of_keys = Buckets()
        self._of_sources = Buckets()

    def check(self, identity: Identity, source: str, charged_to: str | None) -> None:
        """Raises RefusedError, with when to come again; counts nothing."""
        for whose, name, buckets, key, rate, burst in self._buckets(identity, source, charged_to):
            wait = buckets.wait_seconds(key, self._now(), rate, burst)
            if wait > 0:
                reason = (
                    f"{whose} begins or moves leases too often: {burst:g} at once, then {rate:g} a "
                    f"second; the relay's operator raises it with --limit {name}=N"
                )
                raise RefusedError(pb.REFUSAL_QUOTA, reason, wait)

    def count(self, identity: Identity, source: str, charged_to: str | None) -> None:
        """A lease has begun or moved."""
        for _, _, buckets, key, rate, burst in self._buckets(identity, source, charged_to):
            buckets.take(key, self._now(), rate, burst)

    def _buckets(
        self, identity: Identity, source: str, charged_to: str | None
    ) -> Iterator[tuple[str, str, Buckets, object, float, float]]:
        limits = self._settings.limits
        rate, burst = limits.lease_changes_per_key, limits.lease_burst_per_key
        yield "this key", "lease-changes-per-key", self._of_keys, identity, rate, burst
        if charged_to is None and not self._settings.trusts(source):
            charged_to = counted_source(source)
        if charged_to not in (None, KNOWN):
            rate, burst = limits.lease_changes_per_source, limits.lease_burst_per_source
            whose = "this source address or token"
            yield whose, "lease-changes-per-source", self._of_sources, charged_to, rate, burst
