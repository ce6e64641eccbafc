"""The ten bytes in front of every body on TCP, and the sizes that go with them.

Knows the layout (docs/protocol.md, "Frame"), not what a body means.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

HEADER: Final = Struct(">IBBI")
"""Network id, flag, algorithm, body length; big-endian."""

HEADER_BYTES: Final = HEADER.size

COMPRESSED: Final = 1
"""The one flag value that means: the body is compressed by `algorithm`."""

DEFAULT_NETWORK_ID: Final = 1564141146
"""The published network; 5d3ae65a on the wire."""

DEFAULT_MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Largest relayed body; deployed nodes send 4 to 8 MiB as a matter of course."""

CONTROL_FRAME_BYTES: Final = 64 * 1024
"""Largest body of anything but StreamData on the main port; control messages are small."""
