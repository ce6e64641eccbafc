"""What a refusal names as its remedy is there: options, limits, words of the policy."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import proxyservice
from proxyservice.node import cli
from proxyservice.server import visitor_gate
from proxyservice.server.limit_options import QUOTAS
from proxyservice.server.limits import ServiceLimits
from proxyservice.tap import Options

PACKAGE = Path(proxyservice.__file__).parent

LIMITS = {field.name.replace("_", "-") for field in fields(ServiceLimits)} | set(QUOTAS)


def strings(path: Path) -> Iterator[str]:
    """All of a module, docstrings too; the parts of formatted ones apart."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def options() -> set[str]:
    """Of the relay, and of the commands for nodes."""
    known = {str(row[0]) for row in (*Options.optParameters, *Options.optFlags)}
    for command in cli.main.commands.values():
        known |= {one.lstrip("-") for option in command.params for one in option.opts}
    return known | {"limit", "listen", "help"}


@pytest.mark.parametrize("folder", ["server", "leases"])
def test_every_option_that_a_text_names_is_one(folder: str) -> None:
    named = {
        (path.name, name)
        for path in (PACKAGE / folder).glob("*.py")
        for text in strings(path)
        for name in re.findall(r"--([a-z]+(?:-[a-z]+)*)", text)
    }
    assert named
    assert {(file, name) for file, name in named if name not in options()} == set()


@pytest.mark.parametrize("folder", ["server", "leases"])
def test_every_limit_that_a_text_names_is_one(folder: str) -> None:
    named = {
        name
        for path in (PACKAGE / folder).glob("*.py")
        for text in strings(path)
        for name in re.findall(r"--limit ([a-z]+(?:-[a-z]+)*)", text)
    } - {"name"}
    assert named <= LIMITS


def test_each_refusal_of_a_visitor_names_what_lifts_it() -> None:
    tree = ast.parse(Path(visitor_gate.__file__).read_text())
    told = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Return)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    assert len(told) == 6
    for reason in told:
        assert re.search(r", see .*--(limit [a-z-]+|policy)", reason), reason
