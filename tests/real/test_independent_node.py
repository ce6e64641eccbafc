"""docs/protocol.md is enough: a node made from it alone serves visitors of the real service."""

from __future__ import annotations

import ast
import os
import sys
import threading
from pathlib import Path

import pytest

from tests.node.processes import Relay, visit
from tests.real.conftest import Run

pytestmark = pytest.mark.process
PROGRAM = Path(__file__).with_name("independent_node.py")
SEED = bytes(range(100, 132)).hex()


def test_it_shares_nothing_with_the_package() -> None:
    imported = set()
    for node in ast.walk(ast.parse(PROGRAM.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"cryptography"}


def test_a_node_made_from_the_page_alone_serves_visitors(relay: Relay, run: Run) -> None:
    node = run(sys.executable, PROGRAM, "127.0.0.1", relay.port, SEED, "web")
    address = node.wait_for(r"(127\.0\.0\.1:\d+)")[1]
    assert visit(address, b"") == b""
    said = os.urandom(5 << 20)  # beyond every window, both ways
    assert visit(address, said) == said
    answers: dict[int, bool] = {}

    def come(number: int) -> None:
        mine = os.urandom(200_000)
        answers[number] = visit(address, mine) == mine

    visitors = [threading.Thread(target=come, args=(number,)) for number in range(20)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(30)
    assert answers == dict.fromkeys(range(20), True)
    node.kill()
    again = run(sys.executable, PROGRAM, "127.0.0.1", relay.port, SEED, "web")
    assert again.wait_for(r"(127\.0\.0\.1:\d+)")[1] == address
    assert visit(address, b"the same tomorrow") == b"the same tomorrow"
