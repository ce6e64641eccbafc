"""Options of our twistd plugins: what is wrong is told in one line, with exit status 2.

Knows no single option; `tap` and `node_tap` declare theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twisted.python import usage

WRONG_USAGE_STATUS = 2


NO_BUSY_POLL = ["no-busy-poll", None, "Sleep between any two events: less CPU, slower answers."]
"""For `optFlags`."""


class PluginOptions(usage.Options):
    """`usage.Options` that end the process themselves when they are wrong.

    Left to itself twistd prints its whole help before the reason, and
    exits with status 0 in versions before 26.10.
    """

    command: str
    """Name of the plugin, as typed after `twistd`."""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            print(f"twistd {self.command}: {error}", file=sys.stderr)
            raise SystemExit(WRONG_USAGE_STATUS) from None

    def getUsage(self, width: int | None = None) -> str:
        """The help. An empty value stands for a default that the option's own text tells."""
        self.defaults = {name: value for name, value in self.defaults.items() if value != ""}
        return str(super().getUsage(width))
