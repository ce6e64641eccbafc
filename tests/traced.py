"""What Python has allocated, where it counts that and gives it back at once."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

counts_references = pytest.mark.skipif(
    platform.python_implementation() == "PyPy", reason="PyPy gives memory back by and by"
)


@contextmanager
def traced_memory() -> Iterator[Any]:
    """`tracemalloc`, counting from here on; the test is skipped where there is none, as on PyPy."""
    tracemalloc = pytest.importorskip("tracemalloc", reason="this Python counts no allocations")
    tracemalloc.start()
    try:
        yield tracemalloc
    finally:
        tracemalloc.stop()
