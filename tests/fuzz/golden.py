"""The golden frames of tests/vectors.json, for seeds."""

from __future__ import annotations

import json
from pathlib import Path

_VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())


def golden(prefix: str) -> list[bytes]:
    """The bytes of all entries whose name begins so."""
    return [bytes.fromhex(entry["hex"]) for entry in _VECTORS if entry["name"].startswith(prefix)]
