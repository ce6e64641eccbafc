"""The operator's policy: a TOML file that says who may have what.

`[default]` holds for everybody who has no entry, and in every entry for what
it does not say. `[keys."SHA256:..."]`, `[tokens.NAME]` and
`[certificates."NAME"]` are entries; of several that fit a node the first kind
in this order counts. Nothing is guessed: what is not known is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from proxyservice.errors import StartError
from proxyservice.leases.port_set import PortSet
from proxyservice.server.networks import Networks
from proxyservice.server.rules import ANYTHING, MODES, Rules
from proxyservice.text import decode_text
from proxyservice.units import parse_port_range, parse_size
from proxyservice.wire.identity import key_fingerprint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

POLICY_LIMIT_BYTES = 16 << 20
"""More than 100,000 entries."""

_FINGERPRINT = re.compile(r"(SHA256:[A-Za-z0-9+/]{43})=?")
_NET_KEY = re.compile(r"[0-9A-Fa-f]{64}")
_KINDS = ("keys", "tokens", "certificates")


@dataclass(frozen=True, slots=True)
class Policy:
    """What a file says, checked."""

    default: Rules = ANYTHING
    entries: dict[tuple[str, str], Rules] = field(default_factory=dict)
    """By kind and name, the default's values in them."""
    own_ports: frozenset[int] = frozenset()
    """The ports that belong to one entry each; asked for with each request of a node."""

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Raises StartError with one line that names the file and the place in it."""
        try:
            with path.open("rb") as file:
                text = file.read(POLICY_LIMIT_BYTES + 1)
            if len(text) > POLICY_LIMIT_BYTES:
                raise ValueError(f"over {POLICY_LIMIT_BYTES >> 20} MiB")
            return cls.parse(tomllib.loads(decode_text(text)))
        except OSError as error:
            raise StartError(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise StartError(f"{path}: {' '.join(str(error).split())}") from None

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Policy:
        """Raises ValueError."""
        _known(document, ("default", *_KINDS), "the file")
        default = _rules(document.get("default", {}), "default")
        for single in ("port", "keys"):
            if getattr(default, single) is not None:
                raise ValueError(f"default: {single!r} is for one entry, not for everybody")
        entries: dict[tuple[str, str], Rules] = {}
        for kind in _KINDS:
            for name, table in _table(document.get(kind, {}), kind).items():
                where = f"{kind}.{name!r}"
                entry = (kind, _fingerprint(name, where) if kind == "keys" else name)
                if entry in entries:
                    raise ValueError(f"{where}: there is an entry of this key before")
                entries[entry] = _rules(table, where).over(default)
        return cls(default, entries, _own_ports(entries))

    def rules(self, key: str, token: str, certificates: Iterable[str]) -> Rules:
        """What holds for who has shown this; empty: it has not."""
        names = [("keys", key), ("tokens", token)]
        names += [("certificates", name) for name in certificates]
        for name in names:
            found = self.entries.get(name)
            if found is not None:
                return found
        return self.default

    def has_entry(self, key: str, token: str, certificates: Iterable[str]) -> bool:
        """Whether there is more for this node than the default."""
        names = [("keys", key), ("tokens", token)]
        return any(name in self.entries for name in names) or any(
            ("certificates", name) in self.entries for name in certificates
        )


def _own_ports(entries: dict[tuple[str, str], Rules]) -> frozenset[int]:
    """Each port that belongs to one entry belongs to one. Raises ValueError."""
    whose: dict[int, str] = {}
    for (kind, name), rules in entries.items():
        where = f"{kind}.{name!r}"
        if rules.port is not None and whose.setdefault(rules.port, where) != where:
            raise ValueError(f"{where}: port {rules.port} is that of {whose[rules.port]}")
    return frozenset(whose)


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a table, as [{where}]")
    return value


def _known(table: dict[str, Any], names: Iterable[str], where: str) -> None:
    unknown = sorted(set(table) - set(names))
    if unknown:
        raise ValueError(f"{where}: there is no {unknown[0]!r}; there are {', '.join(names)}")


def _rules(value: object, where: str) -> Rules:
    table = _table(value, where)
    _known(table, _READERS, where)
    read = {}
    for name, written in table.items():
        try:
            read[name] = _READERS[name](written)
        except ValueError as error:
            raise ValueError(f"{where}: {name}: {error}") from None
    return Rules(**read)


def _yes(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _whole(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return read


def _rate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e9:
        raise ValueError("expected a number above 0")
    return float(value)


def _size(value: object) -> int:
    return parse_size(str(value))


def _strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError('expected a list of texts, as ["...", "..."]')
    return value


def _ports(value: object) -> PortSet:
    written = [value] if isinstance(value, str) else _strings(value)
    return PortSet.of_ranges(map(parse_port_range, written))


def _modes(value: object) -> frozenset[int]:
    names = _strings(value)
    _known(dict.fromkeys(names), MODES, "it")
    return frozenset(MODES[name] for name in names)


def _networks(value: object) -> Networks:
    return Networks(map(ip_network, _strings(value)))


def _keys(value: object) -> frozenset[str]:
    return frozenset(_fingerprint(key, repr(key)) for key in _strings(value))


def _fingerprint(text: str, where: str) -> str:
    """As log and `proxyservice leases` show a key, or the whole key in hex, as JSON has it too."""
    if _NET_KEY.fullmatch(text):
        return key_fingerprint(bytes.fromhex(text))
    match = _FINGERPRINT.fullmatch(text)
    if match is None:
        raise ValueError(f"{where}: expected a fingerprint, SHA256:...")
    return match[1]


_READERS: dict[str, Callable[[object], Any]] = {
    "admit": _yes,
    "leases": _whole(0, 65535),
    "port": _whole(1, 65535),
    "ports": _ports,
    "modes": _modes,
    "visitors": _whole(0, 1 << 20),
    "visitors_per_second": _rate,
    "bytes_per_second": _size,
    "visitor_allow": _networks,
    "visitor_deny": _networks,
    "keys": _keys,
}
"""Every setting of an entry, and how it is read; all are fields of `Rules`."""
