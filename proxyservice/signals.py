"""What a signal does in the first moments of a process of ours: an end like any other.

Imports nothing that takes time, so that these moments are few.
"""

from __future__ import annotations

import os
import signal


def end_at_once_on_signals() -> None:
    """Until better is known: SIGTERM and SIGINT end this process with status 0, without a word."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os._exit(0))
