"""`proxyservice`, the console command, from its first moment: a signal that early is no mistake."""

from __future__ import annotations

import signal
import sys

from proxyservice.signals import end_at_once_on_signals

RUN_UNTIL_A_SIGNAL = ("expose", "relay", "demo")
"""Commands that end with status 0 when they are told to before they have begun."""


def main(**options: str) -> None:
    """Import what takes time, and run it."""
    if sys.argv[1:2] and sys.argv[1] in RUN_UNTIL_A_SIGNAL:
        end_at_once_on_signals()
    else:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of half an import
    from proxyservice.node.cli import main as run

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run(**options)
