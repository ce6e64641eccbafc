"""Where a node keeps its key and the relays it knows."""

from __future__ import annotations

from proxyservice.state import state_directory

__all__ = ["KEY_FILE", "KNOWN_RELAYS_FILE", "state_directory"]

KEY_FILE = "node.key"
KNOWN_RELAYS_FILE = "known-relays"
