"""Fixtures that every part of the tests may use."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogEvent, globalLogPublisher

from tests.node.processes import open_descriptors
from tests.ports import unused_port

VECTORS: dict[str, dict[str, Any]] = {
    entry["name"]: entry
    for entry in json.loads(Path(__file__).with_name("vectors.json").read_text())
}

COLLECTIONS = 3
"""PyPy ends what hangs on something with an end of its own only in the next one."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the heavy tests out of a run of everything: they have one of their own (`-m heavy`).

    Who names a file, a test or a marker, or sets PROXYSERVICE_FULL, gets what is named.
    """
    names_files = any(".py" in argument for argument in config.args)
    if config.option.markexpr or names_files or os.environ.get("PROXYSERVICE_FULL"):
        return
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    if heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if not item.get_closest_marker("heavy")]


@pytest.fixture(autouse=True)
def no_assertion_goes_unheard() -> Iterator[None]:
    """What a test asserts in a protocol or a listener is caught and logged by what calls it."""
    unheard: list[str] = []

    def note(event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None and failure.check(AssertionError):
            unheard.append(failure.getTraceback())

    globalLogPublisher.addObserver(note)
    yield
    globalLogPublisher.removeObserver(note)
    assert not unheard, unheard[0]


@pytest.fixture(scope="session")
def vectors() -> dict[str, dict[str, Any]]:
    """The golden frames by name; `hex` holds the bytes."""
    return VECTORS


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """So many different TCP ports that nobody listens on, IPv4 or IPv6."""

    def find(count: int) -> list[int]:
        ports: dict[int, None] = {}
        while len(ports) < count:
            ports[unused_port()] = None
        return list(ports)

    return find


@pytest.fixture
def free_port(free_ports: Callable[[int], list[int]]) -> int:
    """A TCP port that nobody listens on."""
    return free_ports(1)[0]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """A thread that outlives its test would keep the whole run from ending."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and not t.daemon]
    for thread in left:
        thread.join(timeout=5)
    stuck = [thread.name for thread in left if thread.is_alive()]
    assert not stuck, f"threads still run: {', '.join(stuck)}"


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    """A test closes its sockets, files and pipes, and leaves no timer in the process's reactor."""
    from twisted.internet import reactor as running

    reactor: Any = running  # before anything is counted: it has descriptors of its own
    before, timers = Counter(open_descriptors(os.getpid())), set(reactor.getDelayedCalls())
    yield
    for _ in range(COLLECTIONS):  # what only the collector would close is not kept by anybody
        if not Counter(open_descriptors(os.getpid())) - before:
            break
        gc.collect()
    left = Counter(open_descriptors(os.getpid())) - before
    assert not left, f"still open: {', '.join(left)}"
    late = set(reactor.getDelayedCalls()) - timers
    assert not late, f"still to come: {', '.join(map(str, late))}"
