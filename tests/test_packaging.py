"""What is declared, documented and installed is what the code uses."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin

import proxyservice
from twisted.plugins import proxyservice_plugins

PACKAGE = Path(proxyservice.__file__).parent
TOP = Path(__file__).parents[1]
DISTRIBUTIONS = {
    "OpenSSL": "Twisted[tls]",
    "service_identity": "Twisted[tls]",
    "click": "click",
    "cryptography": "cryptography",
    "google": "protobuf",
    "idna": "Twisted[tls]",
    "sqlalchemy": "SQLAlchemy",
    "tomli": "tomli",
    "twisted": "Twisted[tls]",
    "zope": "zope.interface",
}
"""Who provides what is imported."""

SERVICES = [p for p in vars(proxyservice_plugins).values() if IServiceMaker.providedBy(p)]


def requirements(section: str, key: str) -> dict[str, str]:
    """Name to lower bound, as setup.cfg has them."""
    parser = configparser.ConfigParser()
    parser.read(TOP / "setup.cfg")
    return dict(re.findall(r"^([^<>=\n]+)>=([0-9.]+)", parser[section][key], re.MULTILINE))


def test_what_is_imported_is_declared() -> None:
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"proxyservice", "tomllib"}
    others.discard("cffi")  # comes with PyPy, and is asked for there alone
    declared = set(requirements("options", "install_requires"))
    assert {DISTRIBUTIONS.get(name, name) for name in others} == declared


def test_the_lower_bounds_are_those_that_are_tested_and_explained() -> None:
    runtime = requirements("options", "install_requires")
    tests = requirements("options.extras_require", "test")
    lowest = dict(
        re.findall(r"^(\S+)==(\S+)$", (TOP / ".ci" / "lowest.txt").read_text(), re.MULTILINE)
    )
    wanted = {name.split("[")[0]: bound for name, bound in (runtime | tests).items()}
    assert lowest.keys() == wanted.keys()
    for name, bound in wanted.items():
        assert re.fullmatch(rf"{re.escape(bound)}(\.0)*", lowest[name]), name
    text = (TOP / "docs" / "dependencies.md").read_text()
    explained = dict(re.findall(r"^\| (\S+) \| .* \| ([0-9.]+): .* \|$", text, re.MULTILINE))
    assert explained == runtime


@pytest.mark.parametrize("plugin", SERVICES, ids=lambda plugin: plugin.tapname)
def test_a_plugin_names_a_module_that_makes_its_service(plugin: IServiceMaker) -> None:
    assert IPlugin.providedBy(plugin)
    module = import_module(plugin.module)
    assert callable(module.makeService)
    assert module.Options().getSynopsis()


def test_looking_for_plugins_loads_none_of_them() -> None:
    """Every twistd, and whatever takes an endpoint string, imports the plugin file."""
    code = "import sys; from twisted.plugins import proxyservice_plugins; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    loaded = run.stdout.split()
    assert not {"google.protobuf", "sqlalchemy", "cryptography", "click"}.intersection(loaded)
    assert "proxyservice.server" not in loaded


def option_rows() -> dict[str, str]:
    """Name to default, as docs/operations.md has them."""
    section = (TOP / "docs" / "operations.md").read_text().split("\n## ")[1]
    return dict(re.findall(r"^\| `--([a-z0-9-]+) \S+` \| (.*?) \|", section, re.MULTILINE))


def test_every_option_is_documented_with_its_default() -> None:
    from proxyservice.tap import Options

    declared = {"listen": "tcp:6008", "limit": ""}  # collected by a method, for it may be repeated
    declared |= {str(name): default or "" for name, _, default, *_ in Options.optParameters}
    documented = option_rows()
    assert declared.keys() == documented.keys()
    for name, default in declared.items():
        assert default in documented[name], name


def test_every_limit_is_documented_with_its_default() -> None:
    from proxyservice.server.limit_options import Limits, names
    from proxyservice.server.limits import ServiceLimits

    section = (TOP / "docs" / "operations.md").read_text().split("\n## Limits\n")[1]
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| `(\S+)` \|", section, re.MULTILINE))
    assert rows.keys() == names().keys()
    said = Limits.parse([f"{name}={default}" for name, default in rows.items()], ServiceLimits())
    assert said == Limits.parse([], ServiceLimits())


PAGES = [TOP / "README.md", *TOP.glob("docs/[!b]*.md"), *TOP.glob("examples/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
