"""What an address counts as where limits are per source; asked for every connection."""

from __future__ import annotations

from functools import lru_cache

from proxyservice.leases.quota import counted_source
from proxyservice.server.settings import ServiceSettings

REMEMBERED = 4096
"""The same addresses come again and again."""


class Sources:
    """One for a service."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self.counted_as = lru_cache(REMEMBERED)(self._counted_as)
        """The source of a canonical address; None: a trusted one, which no limit is for."""

    def _counted_as(self, host: str) -> str | None:
        return None if self._settings.trusts(host) else counted_source(host)
