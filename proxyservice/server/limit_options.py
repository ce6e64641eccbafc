"""`--limit NAME=VALUE`: every limit by its name, as docs/operations.md lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from proxyservice.leases.lease import LeaseQuota
from proxyservice.server.limits import ServiceLimits
from proxyservice.units import parse_duration, parse_size

OWN_OPTIONS = frozenset({"max_frame_bytes", "inflate_check_bytes"})
"""Limits that have options of their own."""

CLAIMED = "claimed-leases-per-source"

QUOTAS = {
    "leases-per-key": "per_key",
    "leases-per-source": "per_source",
    CLAIMED: "claimed_per_source",
}
"""Limits of leases, and which field of `LeaseQuota` each is."""

LARGEST = 1 << 31
"""Of counts and rates: beyond it nobody means what they say."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Both kinds: what a connection may do, and how many leases there may be."""

    service: ServiceLimits
    quota: LeaseQuota

    @classmethod
    def parse(cls, texts: Iterable[str], service: ServiceLimits) -> Limits:
        """`service` and the usual quota, but for what these say. Raises ValueError."""
        limits, texts = cls(service, LeaseQuota()), list(texts)
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals or name not in _READERS:
                known = ", ".join(sorted(_READERS))
                raise ValueError(f"{text!r} is no NAME=VALUE; names are {known}")
            part, field, read = _READERS[name]
            try:
                changed = replace(getattr(limits, part), **{field: read(value)})
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            limits = replace(limits, **{part: changed})
        return limits._of_both_kinds(name.partition("=")[0] for name in texts)

    def _of_both_kinds(self, names: Iterable[str]) -> Limits:
        """`leases-per-source` alone says it of claimed identities too."""
        named = set(names)
        if "leases-per-source" not in named or CLAIMED in named:
            return self
        both = replace(self.quota, claimed_per_source=self.quota.per_source)
        return replace(self, quota=both)


def names() -> dict[str, Any]:
    """Each limit's name and its default."""
    parts = {"service": ServiceLimits(), "quota": LeaseQuota()}
    return {name: getattr(parts[part], field) for name, (part, field, _) in _READERS.items()}


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or not 0 < int(text) <= LARGEST:
        raise ValueError(f"{text!r} is no whole number from 1 to {LARGEST}")
    return int(text)


def _rate(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,6})?", text) or float(text) > LARGEST:
        raise ValueError(f"{text!r} is no number from 0 to {LARGEST}")
    return float(text)


def _rate_above_0(text: str) -> float:
    rate = _rate(text)
    if not rate:
        raise ValueError("it must be above 0")
    return rate


def _size_or_0(text: str) -> int:
    return 0 if text == "0" else parse_size(text)


def _reader(name: str, default: object) -> Callable[[str], Any]:
    if "bytes" in name.split("_"):
        return parse_size if default else _size_or_0
    if "seconds" in name.split("_"):
        return parse_duration
    if isinstance(default, float):
        return _rate_above_0 if default else _rate
    return _count


def _readers() -> dict[str, tuple[str, str, Callable[[str], Any]]]:
    found = {}
    for field in fields(ServiceLimits):
        if field.name not in OWN_OPTIONS:
            reader = _reader(field.name, field.default)
            found[field.name.replace("_", "-")] = ("service", field.name, reader)
    for name, field_name in QUOTAS.items():
        found[name] = ("quota", field_name, _count)
    return found


_READERS = _readers()
"""Name to the part and field it sets, and how its value is read."""
