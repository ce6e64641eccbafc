"""What a node imports is there on every system: it runs on Windows and macOS too.

Imports are read, not run, since this machine is only one of them: every module that
`proxyservice` the command, the endpoint and the library load before they do anything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import proxyservice

PACKAGE = Path(proxyservice.__file__).parent

STARTS = ("node/cli.py", "node/endpoint.py", "node/node.py", "node/expose.py", "node_tap.py")

NOT_EVERYWHERE = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog"}
"""Of the standard library, and absent on Windows."""


def imported_at_once(module: Path) -> Iterator[str]:
    """The modules that importing this one loads; not what a function imports when it is called."""
    pending: list[ast.stmt] = list(ast.parse(module.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, (ast.ClassDef, ast.With)):
            pending += node.body
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            pending += [*node.body, *node.orelse]
        # a `try` says what happens where the module is absent


def loaded() -> dict[Path, set[str]]:
    """Every module of ours that a node loads at its start, with what it imports."""
    found: dict[Path, set[str]] = {}
    pending = [PACKAGE / start for start in STARTS]
    while pending:
        module = pending.pop()
        if module in found:
            continue
        found[module] = set(imported_at_once(module))
        for name in found[module]:
            if name.startswith("proxyservice."):
                path = PACKAGE / Path(*name.split(".")[1:])
                pending += [
                    file
                    for file in (path.with_suffix(".py"), path / "__init__.py")
                    if file.exists()
                ]
    return found


def test_a_node_loads_nothing_that_some_systems_lack() -> None:
    modules = loaded()
    assert len(modules) > 60, "the walk found the library"
    wrong = {
        str(module.relative_to(PACKAGE)): sorted(names & NOT_EVERYWHERE)
        for module, names in modules.items()
        if names & NOT_EVERYWHERE
    }
    assert wrong == {}
