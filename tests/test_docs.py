"""The worked examples of docs/protocol.md are the golden frames."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import VECTORS

PROTOCOL = Path(__file__).parents[1] / "docs" / "protocol.md"
EXAMPLES = ["tcp_proxy_request_unsigned", "tcp_proxy_response"]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_are_golden_frames(number: int) -> None:
    text = PROTOCOL.read_text().split("## Example")[1]
    block = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)[number]
    digits = re.findall(r"\b[0-9a-f]{2,}\b", re.sub(r"tcp://\S+", "", block))
    assert "".join(digits) == VECTORS[EXAMPLES[number]]["hex"]
