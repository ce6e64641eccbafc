"""`proxyservice relay`: the service for people, in the foreground, with the plugin's own options.

Supervisors run `twistd proxyservice`, which is the same. This command is for a
user who has installed the package with pipx or uvx, which put no `twistd` in reach.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click

from proxyservice.errors import StartError

NEEDED_OF_THE_SYSTEM = ("fcntl", "resource")
"""Modules of Python's that the relay cannot do without; Windows has neither."""


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def relay(options: tuple[str, ...]) -> None:
    """Run a relay, until interrupted; `relay --help` lists its options."""
    check_system()
    from twisted.scripts.twistd import ServerOptions, runApp  # type: ignore[attr-defined]

    from proxyservice.options import PluginOptions

    PluginOptions.program = "proxyservice"
    from proxyservice.tap import Options

    Options.command = "relay"
    config = ServerOptions()
    config.parseOptions(["--nodaemon", "--pidfile=", "proxyservice", *options])
    runApp(config)


def check_system() -> None:
    """Raises StartError where the relay cannot run."""
    if any(find_spec(name) is None for name in NEEDED_OF_THE_SYSTEM):
        raise StartError(
            f"the relay does not run on {sys.platform}; run it on Linux. "
            "`proxyservice expose` runs here"
        )
