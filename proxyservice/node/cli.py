"""`proxyservice`: the commands for people. Errors are one line and exit status 1 or 2."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's own
from twisted.python.failure import Failure

from proxyservice import __version__
from proxyservice.errors import ProxyServiceError
from proxyservice.node.keys import create_key, fingerprint
from proxyservice.node.state import KEY_FILE, state_directory


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="proxyservice")
def main() -> None:
    """Public addresses for nodes behind NAT."""


@main.command()
def demo() -> None:
    """Run a service and two nodes on loopback and show how a message travels."""
    from proxyservice.node.demo import demonstrate

    sys.exit(run_reactor(lambda reactor: demonstrate(reactor, click.echo)))


@main.command()
@click.option(
    "--key",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to create.  [default: node.key in the state directory]",
)
def keygen(path: Path | None) -> None:
    """Create a node key and print its fingerprint."""
    path = path or state_directory() / KEY_FILE
    try:
        key = create_key(path)
    except ProxyServiceError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{path} {fingerprint(key)}")


def run_reactor(work: Callable[[Any], Deferred[Any]]) -> int:
    """Run the reactor until the work is done; return the exit status.

    The clock of the reactor becomes the monotonic one, before anything is
    scheduled: this process is ours.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    vars(reactor)["seconds"] = time.monotonic
    status = [1]

    def finished(result: Any) -> None:
        status[0] = _status(result)
        if reactor.running:
            reactor.stop()

    reactor.callWhenRunning(lambda: work(reactor).addBoth(finished))
    reactor.run()
    return status[0]


def _status(result: Any) -> int:
    if not isinstance(result, Failure):
        return 0
    if result.check(ProxyServiceError):
        click.echo(f"Error: {result.getErrorMessage()}", err=True)
    elif result.check(TimeoutError, CancelledError):
        click.echo("Error: it takes too long; giving up", err=True)
    else:
        result.printTraceback(sys.stderr)
    return 1
