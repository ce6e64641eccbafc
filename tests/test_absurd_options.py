"""Whatever stands on a command line: it is taken, or one line and status 1 or 2, no traceback."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxyservice.leases.lease import Identity, Owner
from proxyservice.leases.rows import Batch, Row
from proxyservice.leases.store import LeaseStore, sqlite_url
from proxyservice.node import cli
from proxyservice.node_tap import Options as NodeOptions
from proxyservice.options import PluginOptions
from proxyservice.server.relay_id import relay_id
from proxyservice.tap import Options as ServiceOptions

ODD = [
    *(
        "",
        " ",
        "-",
        "--",
        "0",
        "-0",
        "-1",
        "1",
        "1.5",
        "1e9",
        "1e400",
        "nan",
        "inf",
        "-inf",
        "0x10",
    ),
    *("9" * 25, "9" * 5000, "-" + "9" * 25, "99999999999999999", "٣", "²", "１２", "1_000", "+1"),
    *("x", "x" * 300, "x" * 5000, "a/" * 2000, "é", "\udcff", "\u202e", "a\nb", "\x1b[31m", "\t"),
    *(".", "..", "nothing", "nothing/here", "file", "file/x", "folder", "loop", "pipe", "~", "~x"),
    *("/dev/null", "/dev/null/x", "/proc/self/mem", "/", "a b", "a=b", "=", ":", "::", "[::]", "%"),
    *(
        "tcp:6008",
        "tcp:99999",
        "tcp:-1",
        "tcp:x",
        "tcp:",
        "tcp:1:interface=x",
        "tcp:1:x=y",
        "tcp6:1",
    ),
    *(
        "unix:/tmp/x",
        "unix:",
        "ssl:6009",
        "fd:0",
        "stdio:",
        "systemd:",
        "systemd:domain=INET6:index=0",
    ),
    *("systemd:domain=UNIX:index=0", "tls:", "tls:tls:tcp:1", "haproxy:tls:tcp:1", "tls:haproxy:"),
    *(
        "tls:haproxy:tcp:1",
        "udp:53",
        "proxied:x",
        "tcp:1:backlog=x",
        "tcp:\\",
        "http://x:1/",
        "a@b:1",
    ),
    *("127.0.0.1", "127.0.0.1:1", "127.0.0.1:99999", "127.0.0.1:0", "[::1]:1", "[::1", "::1:1"),
    *("1-1", "0-5", "5-1", "1-65536", "1-65535", "10.0.0.0/8", "10.0.0.1/8", "10.0.0.0/33", "none"),
    *("90s", "1ms", "99999d", "1h1h", "64MiB", "9999999TiB", "0B", "memory-bytes=1", "backlog=0"),
    *(
        "nothing=1",
        "takeover-burst=" + "9" * 5000,
        "memory-bytes=99999TiB",
        "lease-bytes-per-second=-1",
    ),
    *(
        "sqlite:",
        "sqlite:///",
        "sqlite:///folder",
        "sqlite:////nowhere/x",
        "sqlite:///x?mode=ro",
        "memory:",
    ),
    *("sqlite:///" + "x" * 5000, "2026-03-01T12:30", "0001-01-01", "9999-12-31T23:59:59", "12:30"),
    *(
        "2026-02-30",
        "253402300800",
        "-62135596800",
        "1970-01-01T00:00+99:99",
        "v1",
        "allow",
        "ff" * 32,
    ),
]
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_characters="\0/"), max_size=20),
)


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made is made here; there is a store, an identity, and things in the way."""
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "PROXYSERVICE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli, "run_reactor", lambda work, **_: 0)
    work = tmp_path / "work"
    state = tmp_path / "home" / ".local" / "state" / "proxyservice"
    state.mkdir(mode=0o700, parents=True)
    work.mkdir(mode=0o700)
    monkeypatch.chdir(work)
    (work / "file").write_text("text")
    (work / "folder").mkdir()
    (work / "loop").symlink_to("loop")
    relay_id(state)
    store = LeaseStore(sqlite_url(state / "leases.sqlite"), 1564141146)
    store.open(1.7e9)
    owner = Owner(Identity(True, b"k" * 32), "web")
    store.write(Batch(rows=[Row(20000, "remembered", owner, 1.8e9)]))
    store.close()


def no_more_than_a_line(said: str) -> None:
    assert "Traceback" not in said
    assert said.count("\n") <= 1, said
    said.encode()  # nothing that a terminal cannot be shown


# -------------------------------------------------------------------- the plugins


def plugin_words(options: type[PluginOptions]) -> st.SearchStrategy[list[str]]:
    names = [str(row[0]) for row in getattr(options, "optParameters", ())]
    names += [name[4:] for name in dir(options) if name.startswith("opt_")]
    own = [name for name in names if name not in ("help", "version", "_shell_completion")]
    one = st.tuples(st.sampled_from(own), VALUES).map(lambda pair: f"--{pair[0]}={pair[1]}")
    return st.lists(one, min_size=1, max_size=3)


def parse(options: PluginOptions, words: Sequence[str]) -> None:
    heard, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(said):
        try:
            options.parseOptions(list(words))
        except SystemExit as ended:
            assert ended.code == 2
            assert heard.getvalue().startswith(f"twistd {options.command}: ")
    assert said.getvalue() == ""
    no_more_than_a_line(heard.getvalue().encode(errors="backslashreplace").decode())


MANY = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@MANY
@given(plugin_words(ServiceOptions))
def test_the_service(words: list[str]) -> None:
    parse(ServiceOptions(), words)


@MANY
@given(plugin_words(NodeOptions))
def test_the_node_as_a_service(words: list[str]) -> None:
    parse(NodeOptions(), ["--via", "127.0.0.1", "--expose", "8080", *words])
    parse(NodeOptions(), words)


@pytest.mark.heavy
@pytest.mark.parametrize("value", ODD)
def test_each_option_with_each_odd_value(value: str) -> None:
    for kind in (ServiceOptions, NodeOptions):
        names = [str(row[0]) for row in kind.optParameters]
        given_ = [] if kind is ServiceOptions else ["--via", "127.0.0.1", "--expose", "8080"]
        for name in (*names, *(name[4:] for name in vars(kind) if name.startswith("opt_"))):
            parse(kind(), [*given_, f"--{name}={value}"])


# ------------------------------------------------------------------- the commands


def commands(group: click.Group, *before: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


COMMANDS = {" ".join(names): command for names, command in commands(cli.main)}
COMMANDS.pop("relay")  # its options are the plugin's, and it would run


def run(words: Sequence[str]) -> None:
    ran = CliRunner().invoke(cli.main, list(words))
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    assert ran.exit_code in (0, 1, 2), ran.output
    if ran.exit_code:
        assert ran.stderr.startswith("Error: "), ran.stderr
        no_more_than_a_line(ran.stderr)


def option_names(command: click.Command) -> list[str]:
    return [
        one.opts[-1]
        for one in command.params
        if isinstance(one, click.Option) and not one.is_flag and "--help" not in one.opts
    ]


def arguments(command: click.Command, value: str = "8080") -> list[str]:
    return [value for one in command.params if isinstance(one, click.Argument)]


def usual(name: str) -> list[str]:
    return {"expose": ["--via", "127.0.0.1"], "leases": ["--port", "20000"]}.get(name, [])


@pytest.mark.heavy
@pytest.mark.parametrize("value", ODD)
def test_each_option_and_argument_of_each_command(value: str) -> None:
    for name, command in COMMANDS.items():
        for option in option_names(command):
            run([*name.split(), *usual(name), f"{option}={value}", *arguments(command)])
        if arguments(command):
            run([*name.split(), *usual(name), "--", *arguments(command, value)])


@MANY
@given(st.sampled_from(sorted(COMMANDS)), st.data())
def test_any_command(name: str, data: Any) -> None:
    command = COMMANDS[name]
    words = []
    for option in data.draw(st.lists(st.sampled_from([*option_names(command), "--json", "--x"]))):
        words.append(f"{option}={data.draw(VALUES)}")
    run([*name.split(), *words, *data.draw(st.lists(VALUES, max_size=2))])


def test_what_is_odd_enough_is_known() -> None:
    assert {"leases", "backup", "restore", "expose", "keygen", "token new"} <= set(COMMANDS)
    assert os.path.islink("loop")
