"""`proxyservice relay`: the service for people, in the foreground, with the plugin's own options.

Supervisors run `twistd proxyservice`, which is the same. This command is for a
user who has installed the package with pipx or uvx, which put no `twistd` in reach.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click
from click.shell_completion import CompletionItem

from proxyservice.errors import StartError

NEEDED_OF_THE_SYSTEM = ("fcntl", "resource")
"""Modules of Python's that the relay cannot do without; Windows has neither."""


class RelayCommand(click.Command):
    """Knows the plugin's options where a shell completes a line."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The plugin's options that begin so."""
        from proxyservice.tap import Options

        names = sorted("--" + name.rstrip("=") for name in Options().longOpt)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command(
    cls=RelayCommand,
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
