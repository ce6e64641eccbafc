"""T3: whatever a connection does after it was displaced changes nothing."""

from __future__ import annotations

import pytest

from tests.leases.harness import store_thread
from tests.leases.interleaving import Interleaving

LIGHT = 10
"""Hundreds that every run plays; `-m heavy` plays the others."""


@pytest.mark.parametrize(
    "hundred",
    [*range(LIGHT), *(pytest.param(n, marks=pytest.mark.heavy) for n in range(LIGHT, 100))],
)
def test_t3_ten_thousand_interleavings(hundred: int) -> None:
    """A hundred each; with odd seeds the disk fails now and then."""
    with store_thread() as thread:
        for seed in range(hundred * 100, hundred * 100 + 100):
            try:
                Interleaving(seed, thread, failures=0.1 if seed % 2 else 0.0).play(14)
            except BaseException:
                print(f"failing seed: {seed}")
                raise
            thread.queue.clear()
