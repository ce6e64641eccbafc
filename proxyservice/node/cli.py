"""`proxyservice`: the commands for people. Errors are one line and exit status 1 or 2."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EPIPE
from functools import partial
from pathlib import Path
from typing import Any

import click
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's own
from twisted.python.failure import Failure

from proxyservice import __version__
from proxyservice.backup_cli import backup, restore
from proxyservice.errors import ProxyServiceError
from proxyservice.files import NO_MODES, keeps_modes
from proxyservice.node.keys import create_key, load_key
from proxyservice.node.keys import fingerprint as fingerprint_of
from proxyservice.node.state import KEY_FILE, state_directory
from proxyservice.operator_cli import leases
from proxyservice.options import LONGEST_LINE, suggestion
from proxyservice.process import prepare_reactor
from proxyservice.relay_cli import relay
from proxyservice.signals import end_at_once_on_signals
from proxyservice.standard_streams import free_standard_streams, open_standard_descriptors
from proxyservice.state import usable_path
from proxyservice.text import printable


class OneLineErrors(click.Group):
    """Says what is wrong in one line, without the usage that click puts before it."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command, whatever the standard streams are like."""
        open_standard_descriptors()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a file's name may be no text
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the options before the command's name."""
        with _one_line():
            return super().make_context(*args, **extra)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find a command, or say which one may have been meant."""
        if self.get_command(ctx, args[0]) is None:
            meant = suggestion(args[0], self.list_commands(ctx))
            ctx.fail(f"no command {args[0]!r}{meant or '; `proxyservice --help` lists them'}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Find the command, read its options, run it."""
        with _one_line():
            return super().invoke(ctx)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        if isinstance(error, _HELP):
            raise
        # made anew: some kinds, and all with a context, put more before their text
        kind = click.UsageError if isinstance(error, click.UsageError) else click.ClickException
        raise kind(printable(error.format_message(), LONGEST_LINE)) from None
    except ProxyServiceError as error:
        raise click.ClickException(printable(str(error), LONGEST_LINE)) from None
    except OSError as error:
        if error.errno == EPIPE or not error.strerror:
            raise  # whoever read our output has gone, which click knows
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        raise click.ClickException(printable(where + error.strerror, LONGEST_LINE)) from None


_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""The whole help, when nothing was asked for; older versions of click show it by themselves."""


class FilePath(click.Path):
    """The path of a file, as far as there can be one."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Refuse what is none."""
        try:
            usable_path(os.fspath(value))
            return super().convert(value, param, ctx)
        except ValueError as error:
            self.fail(f"{os.fspath(value)!r} is no path: {error}", param, ctx)
        except OSError as error:
            self.fail(f"{os.fspath(value)!r}: {error.strerror}", param, ctx)


def file_option(name: str, help_text: str) -> Callable[[Any], Any]:
    """An option that takes the path of a file; whether it is there is seen later."""
    return click.option(name, metavar="FILE", type=FilePath(), help=help_text)


KEY_OPTION = file_option("--key", "Key file.  [default: node.key in the state directory]")


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="proxyservice", message="%(prog)s %(version)s")
def main() -> None:
    """Public addresses for nodes behind NAT."""


main.add_command(leases)
main.add_command(relay)
main.add_command(backup)
main.add_command(restore)


@main.command()
def demo() -> None:
    """Run a service and two nodes on loopback and show how a message travels."""
    from proxyservice.node.demo import demonstrate

    free_standard_streams()
    sys.exit(run_reactor(lambda reactor: demonstrate(reactor, print)))


@main.command()
@KEY_OPTION
def keygen(key: Path | None) -> None:
    """Create a node key and print its fingerprint."""
    path = key or state_directory() / KEY_FILE
    made = create_key(path, in_new_directory=key is None)
    click.echo(f"{path} {fingerprint_of(made)}")
    if not keeps_modes(path.parent):
        click.echo(f"Warning: {path}: {NO_MODES}", err=True)


@main.command()
@KEY_OPTION
def fingerprint(key: Path | None) -> None:
    """Print the fingerprint of a node key."""
    path = key or state_directory() / KEY_FILE
    click.echo(f"{path} {fingerprint_of(load_key(path))}")


@main.group()
def token() -> None:
    """Tokens, which a relay's operator gives to nodes."""


@token.command("new")
@click.argument("name")
@click.option(
    "--expires", metavar="DURATION", help="It ends after this: 90d, 12h.  [default: never]"
)
@file_option("--out", "Write the secret there, mode 0600, instead of showing it.")
def new_token(name: str, expires: str | None, out: Path | None) -> None:
    """Make a token for NAME: the secret, shown once, and the line for --token-file.

    The line on stdout is the relay's; the secret, which the node needs, goes
    to stderr, or to a file.
    """
    from proxyservice.node.tokens import make_token, write_token

    try:
        made, line = make_token(name, expires, time.time())
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if out is None:
        click.echo(made.text, err=True)
    else:
        write_token(out, made)
    click.echo(line)


@main.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option(
    "--via",
    metavar="[tls:]HOST[:PORT]",
    multiple=True,
    required=True,
    help="Relay, port 6008 by default; more than one are tried in turn.",
)
@KEY_OPTION
@click.option("--port", metavar="N", type=click.IntRange(1, 65535), help="Ask for this port.")
@click.option(
    "--port-or-any", is_flag=True, help="Take any other when the port of --port is unavailable."
)
@click.option("--label", metavar="TEXT", default="", help="Text for the relay's operator.")
@click.option(
    "--proxy-protocol",
    type=click.Choice(["v1", "v2"]),
    help="Tell the target the visitor's address by HAProxy's PROXY protocol.",
)
@file_option("--ca", "Authorities (PEM) of relays with tls:.  [default: the system's]")
@click.option(
    "--pin",
    metavar="HEX",
    multiple=True,
    help="SHA-256 of the public key of a relay with tls:, instead of authorities.",
)
@file_option("--cert", "Certificate (PEM) to show, for relays that want one.")
@file_option("--cert-key", "Its key (PEM).  [default: in the same file]")
@file_option(
    "--token", "File with a token, for relays that want one.  [default: $PROXYSERVICE_TOKEN]"
)
@click.option("--release", is_flag=True, help="Give the address back at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an event.")
@click.option(
    "--no-busy-poll", is_flag=True, help="Sleep between any two events: less CPU, slower answers."
)
def expose(
    targets: tuple[str, ...],
    via: tuple[str, ...],
    as_json: bool,
    no_busy_poll: bool,
    **options: Any,
) -> None:
    """Give local servers public addresses, until interrupted.

    TARGET is a port number, HOST:PORT, or a client endpoint such as
    unix:/run/app.sock. For each, one line says where it is reached. The same
    key gets the same address again.

    Exit status: 0 when interrupted, 3 when another process with the same key
    took over, 1 when no relay will ever serve it, 2 for wrong usage. On a
    terminal it also ends with 1 when it never had an address, for what only
    you can mend; everywhere else it tries again for ever.
    """
    from proxyservice.node import expose as exposing
    from proxyservice.node.announcements import lines_lost
    from proxyservice.node.exposure import read_settings

    try:
        settings = read_settings(targets, via, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    free_standard_streams(tell_lost=partial(lines_lost, as_json=as_json))
    work = partial(
        exposing.expose, settings=settings, as_json=as_json, stdout=sys.stdout, stderr=sys.stderr
    )
    sys.exit(run_reactor(work, busy_poll=not no_busy_poll))


def run_reactor(work: Callable[[Any], Deferred[Any]], *, busy_poll: bool = True) -> int:
    """Run the reactor until the work is done; return the exit status.

    The work's result is the status, None stands for 0. The clock of the
    reactor becomes the monotonic one, before anything is scheduled: this
    process is ours. ``busy_poll`` as in `install_lean_loop`.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    prepare_reactor(reactor, busy_poll=busy_poll)
    status = [1]

    def finished(result: Any) -> None:
        status[0] = _status(result)
        if reactor.running:
            reactor.stop()

    end_at_once_on_signals()  # until the work has its own way
    reactor.callWhenRunning(lambda: work(reactor).addBoth(finished))
    # the reactor's own handlers, where nothing else would wake it
    reactor.run(installSignalHandlers=sys.platform == "win32")
    return status[0]


def _status(result: Any) -> int:
    if not isinstance(result, Failure):
        return result or 0
    if result.check(ProxyServiceError):
        text = result.getErrorMessage()
    elif result.check(TimeoutError, CancelledError):
        text = "it takes too long; giving up"
    else:
        error = result.value
        text = f"this is a mistake of ours: {type(error).__name__}: {error}"
    print(f"Error: {text}", file=sys.stderr)
    return 1
