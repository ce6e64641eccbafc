"""What is wrong on the command line of a plugin is one line and exit status 2."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from twisted.python import usage

from proxyservice import __version__
from proxyservice.options import PluginOptions
from proxyservice.tap import Options as ServiceOptions


class Options(PluginOptions):
    command = "example"
    optParameters: ClassVar[list[list[str | None]]] = [
        ["size", None, "1", "A size."],
        ["place", None, "", "A place. [default: here]"],
    ]

    def postOptions(self) -> None:
        if self["size"] == "0":
            raise usage.UsageError("--size: too small")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--size", "0"], "twistd example: --size: too small\n"),
        (
            ["--sise", "1"],
            "twistd example: option --sise not recognized; did you mean --size?\n",
        ),
        (["--zzz", "1"], "twistd example: option --zzz not recognized\n"),
        (["--size"], "twistd example: option --size requires argument\n"),
        (["more"], "twistd example: there is an argument 'more'; only options are taken here\n"),
    ],
)
def test_wrong_usage(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Options().parseOptions(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_help_is_asked_for_as_elsewhere(asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Options().parseOptions([asked])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.startswith("Usage: twistd example [options]")


def test_right_usage() -> None:
    options = Options()
    options.parseOptions(["--size", "3"])
    assert options["size"] == "3"


def test_the_help_tells_each_default_once() -> None:
    """`place` has no value of its own to tell."""
    said = Options().getUsage(width=80)
    assert said.count("[default: ") == 2
    assert "A size. [default: 1]" in said
    assert "A place. [default: here]" in said


@pytest.mark.parametrize(
    "name", ["claimed", "tls-cert", "tls-key", "tls-client-ca", "token-file", "policy", "ports"]
)
def test_an_unset_variable_lets_nobody_in(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ServiceOptions().parseOptions([f"--{name}", "", "--state-dir", str(tmp_path)])
    assert capsys.readouterr().err == f"twistd proxyservice: --{name} needs a value\n"


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Options().parseOptions(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"proxyservice {__version__}\n"
