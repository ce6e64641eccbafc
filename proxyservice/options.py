"""Options of our twistd plugins: what is wrong is told in one line, with exit status 2.

Knows no single option; `tap` and `node_tap` declare theirs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import ClassVar, NoReturn

from twisted.python import usage

from proxyservice import __version__
from proxyservice.text import printable

WRONG_USAGE_STATUS = 2
LONGEST_LINE = 1000
"""An error repeats what was typed; that may be anything, of any length."""

NO_BUSY_POLL = ["no-busy-poll", None, "Sleep between any two events: less CPU, slower answers."]
"""For `optFlags`."""


class PluginOptions(usage.Options):
    """`usage.Options` that end the process themselves when they are wrong.

    Left to itself twistd prints its whole help before the reason, and
    exits with status 0 in versions before 26.10.
    """

    command: str
    """Name of the plugin, as typed after `twistd`."""

    program: ClassVar[str] = "twistd"
    """What stands before it, where another command runs the plugin."""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            reason = str(error) + suggestion(_mistyped(str(error)), self.longOpt, "--")
            shown = printable(reason, LONGEST_LINE)
            print(f"{self.program} {self.command}: {shown}", file=sys.stderr)
            raise SystemExit(WRONG_USAGE_STATUS) from None

    opt_h = usage.Options.opt_help

    def parseArgs(self, *args: str) -> None:
        """Every plugin of ours takes options alone."""
        if args:
            raise usage.UsageError(f"there is an argument {args[0]!r}; only options are taken here")

    def getSynopsis(self) -> str:
        """The first line of the help."""
        return f"Usage: {self.program} {self.command} [options]"

    def opt_version(self) -> NoReturn:
        """Show the version of proxyservice, and stop."""
        print(f"proxyservice {__version__}")
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        """The help. An empty value stands for a default that the option's own text tells."""
        self.defaults = {name: value for name, value in self.defaults.items() if value != ""}
        return str(super().getUsage(width))


def suggestion(typed: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean --ports?` when something known is near to what was typed, else nothing."""
    near = get_close_matches(typed, [name.rstrip("=") for name in known], n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _mistyped(reason: str) -> str:
    """The option that getopt does not know, without its dashes."""
    found = re.fullmatch(r"option --(\S+) not recognized", reason)
    return found[1] if found else ""
