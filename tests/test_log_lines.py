"""The table of docs/operations.md has every line that a relay can log, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import proxyservice
from proxyservice import ownership, tap

PACKAGE = Path(proxyservice.__file__).parent
OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"

OF_NODES = ("node", "node_tap.py")
"""Modules that no relay runs."""

LEVELS = {"debug", "info", "warn", "error", "critical", "failure"}

VALUES = {
    "{outcome}": ("expired", "released", "revoked"),
    "{why};": ("store FILE cannot be written: CAUSE;",),
    "{path}: {why}": (f"FILE: {ownership.NO_MODES}",),
    "{which}": ("", "; it is the one from before"),
    "{command},": ("proxyservice,",),
}
"""What these parts are replaced by, where the words of the line are in a field."""


def formats() -> set[str]:
    """Each line with its fields in braces, as the code of a relay has it."""
    found = {tap.CLAIMS_ALLOWED, tap.NEW_IDENTITY, tap.LEASES_NOT_USED}
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in OF_NODES:
            found |= set(_formats_in(ast.parse(path.read_text())))
    return found


def _formats_in(tree: ast.AST) -> Iterator[str]:
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        arguments = list(call.args)
        if _is_log(call.func) or (arguments and _is_log(arguments.pop(0))):
            first = arguments[0] if arguments else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _is_log(what: ast.expr) -> bool:
    """`log.info`, or what lines about leases are written with."""
    if not isinstance(what, ast.Attribute):
        return False
    if isinstance(what.value, ast.Name) and what.value.id == "log":
        return what.attr in LEVELS
    return what.attr in ("say", "_write")


def lines() -> set[str]:
    """Lines as people see them; what stays open is a NUL."""
    seen = set()
    for line in formats():
        filled = [line]
        for part, values in VALUES.items():
            filled = [
                one.replace(part, value)
                for one in filled
                for value in (values if part in one else ("",))
            ]
        seen |= {re.sub(r"\{[^}]*\}", "\0", one) for one in filled}
    return seen


def told() -> list[str]:
    """What stands in the table's first column."""
    section = OPERATIONS.read_text().split("\n## The log\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    return [line for cell in cells for line in re.findall(r"`([^`]*)`", cell)]


def pattern(line: str) -> re.Pattern[str]:
    """Words in capitals stand for a value, three dots for all that follows."""
    escaped = re.escape(line).replace(re.escape("..."), ".*")
    return re.compile(re.sub(r"\b[A-Z]+\b", ".+", escaped))


def test_every_line_that_a_relay_can_log_is_in_the_table() -> None:
    patterns = [pattern(line) for line in told()]
    assert [line for line in lines() if not any(one.fullmatch(line) for one in patterns)] == []


def test_every_line_of_the_table_can_be_logged() -> None:
    known = lines()
    stale = [line for line in told() if not any(map(pattern(line).fullmatch, known))]
    assert stale == []
