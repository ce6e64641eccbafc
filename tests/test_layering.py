"""Imports point one way, and the rules know neither Twisted nor a clock nor a socket.

plugins -> tap -> server | node -> leases, net -> streams, wire -> errors, units
(docs/architecture.md). Imports are read, not run: what stands in a function
or under TYPE_CHECKING counts too.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxyservice

PACKAGE = Path(proxyservice.__file__).parent

MAY_IMPORT = {
    "wire": {"wire", "errors", "text"},
    "streams": {"streams", "wire", "errors", "text"},
    "leases": {"leases", "wire", "errors", "units", "text", "files", "ownership"},
    "net": {"net", "streams", "wire", "errors", "units", "text"},
    "server": {
        *("server", "leases", "net", "streams", "wire", "errors", "units", "text", "files"),
        *("ownership", "state_lock", "running"),
    },
    "node": {
        *("node", "net", "streams", "wire", "errors", "units", "state", "text", "files"),
        "ownership",
    },
    "web": {"web", "server", "leases", "net", "wire", "errors", "units", "text"},
    "backup": {
        *(
            "backup",
            "files",
            "leases",
            "server",
            "errors",
            "ownership",
            "running",
            "state",
            "state_lock",
        ),
    },
    "errors.py": {"text"},
    "units.py": set(),
    "options.py": {"text"},
    "signals.py": set(),
    "text.py": set(),
    "files.py": {"errors"},
    "output.py": set(),
    "standard_streams.py": {"output"},
    "process.py": {"errors", "net", "standard_streams", "twistd_log"},
    "twistd_log.py": {"errors", "output", "standard_streams", "text"},
    "state.py": {"errors"},
    "ownership.py": {"errors", "files"},
    "state_lock.py": {"errors", "ownership"},
    "running.py": {"errors", "files"},
    "__init__.py": set(),
}
"""Each folder (or module of its own) and the parts of this package that it may know."""

COMPOSITION_ROOTS = {
    "tap.py",  # the service
    "node_tap.py",  # the node as a service
    "operator_cli.py",  # the commands for the operator of a relay
    "relay_cli.py",  # `proxyservice relay`, a process of its own
    "backup_cli.py",
    "command.py",
    "__main__.py",
    "node/cli.py",  # the commands for people, which may run either side
    "node/expose.py",  # `proxyservice expose`, a process of its own
    "node/demo.py",  # a service and two nodes in one process
}
"""The only places where things are wired together: they may import anything."""

PURE_FOLDERS = ("wire", "streams", "leases")
IMPURE = {
    f"leases/{name}.py"
    for name in ("registry", "commits", "record", "store", "schema", "reading", "copying")
}
PURE_BESIDE = {"errors.py", "units.py", "text.py", "net/deadlines.py", "server/patience.py"}
OUTSIDE = {
    *("twisted", "asyncio", "selectors", "select", "socket", "ssl"),
    *("time", "datetime", "threading", "multiprocessing", "subprocess", "signal"),
    *("sqlalchemy", "sqlite3"),
}


def names_in(source: str, package: str) -> Iterator[str]:
    """Every module, or name in a module, that the source imports, in full."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own_parts(names: Iterator[str]) -> set[str]:
    """`proxyservice.wire.lzw` is part `wire`; the package itself (its version) is nobody's."""
    dotted = (name.split(".") for name in names)
    parts = {name[1] for name in dotted if name[0] == "proxyservice" and len(name) > 1}
    return {part for part in parts if not part.startswith("__")}


def modules() -> list[str]:
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    return sorted(str(path) for path in paths if not path.name.endswith("_pb2.py"))


def imports(module: str) -> Iterator[str]:
    path = PACKAGE / module
    package = ".".join(["proxyservice", *path.relative_to(PACKAGE).parts[:-1]])
    return names_in(path.read_text(encoding="utf-8"), package)


def is_pure(module: str) -> bool:
    in_folder = module.split("/")[0] in PURE_FOLDERS and module not in IMPURE
    return in_folder or module in PURE_BESIDE


@pytest.mark.parametrize("module", [m for m in modules() if is_pure(m)])
def test_rules_know_neither_twisted_nor_a_clock_nor_a_socket(module: str) -> None:
    wrong = sorted({name for name in imports(module) if name.split(".")[0] in OUTSIDE})
    assert not wrong, f"proxyservice/{module} holds rules; it must not import {', '.join(wrong)}"


@pytest.mark.parametrize("module", [m for m in modules() if m not in COMPOSITION_ROOTS])
def test_imports_point_one_way(module: str) -> None:
    layer = module.split("/")[0]
    assert layer in MAY_IMPORT, f"say in MAY_IMPORT what proxyservice/{layer} may import"
    wrong = sorted(own_parts(imports(module)) - MAY_IMPORT[layer])
    allowed = ", ".join(sorted(MAY_IMPORT[layer])) or "nothing of this package"
    assert not wrong, (
        f"proxyservice/{module} imports {', '.join(wrong)}; {layer} may import {allowed}"
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import proxyservice.tap", {"tap"}),
        ("from proxyservice import server, __version__", {"server"}),
        ("from proxyservice.node.cli import main", {"node"}),
        ("from ..leases import table", {"leases"}),
        ("from .. import net", {"net"}),
        ("from . import framing", {"wire"}),
        ("def later():\n    from ..web.page import x", {"web"}),
        ("import zlib, proxyservicelike.wire", set()),
    ],
)
def test_every_way_to_import_is_seen(source: str, found: set[str]) -> None:
    assert own_parts(names_in(source, "proxyservice.wire")) == found


def mapped() -> list[str]:
    """The modules that the map of docs/architecture.md names; after a # it says what they are."""
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "architecture.md").read_text(encoding="utf-8")
    package = page.split("\nproxyservice/\n")[1].split("\ntwisted/plugins/")[0]
    named, folder = [], ""
    for line in package.splitlines():
        found = re.fullmatch(r"  (?:(\w+/) +|( {11}|))(.*)", line.split("#")[0])
        assert found, f"which folder does this line of the map belong to: {line}"
        folder = found[1] or (folder if found[2] else "")
        named += [f"{folder}{name}.py" for name in found[3].split()]
    return named


def test_the_map_names_every_module_once() -> None:
    there = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    expected = {module for module in there if not module.endswith("__init__.py")}
    assert Counter(mapped()) == Counter(expected)
