"""Threat T21: descriptors run out for visitors, never for nodes, and nothing turns in circles."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from proxyservice.server.descriptors import Descriptors
from tests.attacks.kit import proxy_request, receive_message
from tests.node.processes import EchoServer, Program, Relay, visit, wait_until
from tests.real.conftest import address_of, socket_address
from tests.survive.conftest import Expose, Relays

LIMIT = 256
VISITORS = 1000
RECOVERY_SECONDS = 2.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch, relays: Relays) -> Iterator[Relay]:
    """A relay that may have so many descriptors, and no more."""
    start = Program._start

    def with_limit(program: Program) -> object:
        if "proxyservice" in program._command:
            limiting = ["sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh"]
            program._command = limiting + program._command
        return start(program)

    monkeypatch.setattr(Program, "_start", with_limit)
    relay = relays()
    monkeypatch.undo()
    yield relay
    assert relay.end(signal.SIGTERM) == 0


@pytest.fixture
def many() -> Iterator[None]:
    """This process may have as many as the visitors need."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2 * VISITORS:
        pytest.skip("too few descriptors for the visitors themselves")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * VISITORS, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def cpu_seconds(program: Program) -> float:
    with open(f"/proc/{program.process.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def descriptors(program: Program) -> int:
    return len(os.listdir(f"/proc/{program.process.pid}/fd"))


def is_served(visitor: socket.socket) -> bool:
    try:
        visitor.sendall(b"x")
        return visitor.recv(1) == b"x"
    except OSError:
        return False


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.usefixtures("many")
def test_t21_a_thousand_visitors_of_a_service_with_256_descriptors(
    limited: Relay, expose: Expose, echo: EchoServer
) -> None:
    capacity = limited.wait_for(r"started: .*; (\d+) descriptors are room for (\d+) nodes .*")
    assert capacity.groups() == (str(LIMIT), str((LIMIT - 64) // 3))
    exposing = expose(echo.port, "--via", limited.via)
    address = address_of(exposing, echo.port)
    with ExitStack() as held:
        visitors = []
        for _ in range(VISITORS):
            with suppress(OSError):
                visitor = socket.create_connection(socket_address(address), timeout=10)
                visitors.append(held.enter_context(visitor))
        served = [visitor for visitor in visitors if is_served(visitor)]
        assert 150 < len(served) <= LIMIT - 64
        assert descriptors(limited) <= LIMIT - 32
        limited.wait_for("visitors are turned away: .*")
        before = cpu_seconds(limited)
        select.select(served, [], [], 1.0)  # nobody says anything
        assert cpu_seconds(limited) - before < 0.3, "it turns in circles"
        with socket.create_connection(("127.0.0.1", limited.port), timeout=10) as node:
            node.sendall(proxy_request(7))
            receive_message(node)  # another node still gets in
        assert all(is_served(visitor) for visitor in served)
    began = time.monotonic()
    wait_until(lambda: _served_again(address), RECOVERY_SECONDS)
    assert time.monotonic() - began < RECOVERY_SECONDS
    assert "trying again" not in exposing.stderr, "the node was never lost"
    assert len(re.findall("visitors are turned away", limited.stdout)) < 10


def _served_again(address: str) -> bool:
    with suppress(OSError):
        return visit(address, b"again") == b"again"
    return False


@pytest.mark.process
@pytest.mark.heavy
def test_t21_more_nodes_than_there_is_room_for_cost_those_who_come(limited: Relay) -> None:
    with ExitStack() as held:
        nodes = []
        for number in range(LIMIT):
            node = socket.create_connection(("127.0.0.1", limited.port), timeout=10)
            nodes.append(held.enter_context(node))
            node.sendall(proxy_request(number))
        answered = list(_answered(nodes))
        assert len(answered) == 40, "the whole range; the others were closed, or wait for a port"
        assert descriptors(limited) <= LIMIT
        assert "busy" not in limited.stdout
        for node in answered:
            node.setblocking(False)
            with pytest.raises(BlockingIOError):
                node.recv(1)  # there, and nothing more to say


def _answered(nodes: list[socket.socket]) -> Iterator[socket.socket]:
    """Those that hear something, until nobody does."""
    left = set(nodes)
    while readable := select.select(left, [], [], 3.0)[0]:
        yield from filter(_is_answered, readable)
        left.difference_update(readable)


def _is_answered(node: socket.socket) -> bool:
    try:
        receive_message(node)
    except OSError:
        return False
    return True


# ---------------------------------------------------------------------- the arithmetic


def test_visitors_leave_nodes_enough_and_nodes_leave_us_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sockets = [0]
    descriptors = Descriptors(lambda: sockets[0])
    assert descriptors.room_for_visitor, "unlimited until the limit is known"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: None)
    assert descriptors.raise_limit() == 4096
    assert descriptors.nodes == 1344
    for count, room in (
        (3481, (True, True, True)),
        (3482, (False, True, True)),
        (4063, (False, False, True)),
        (4064, (False, False, False)),
    ):
        sockets[0] = count
        for_node, for_port = descriptors.room_for_node, descriptors.room_for_port
        assert (descriptors.room_for_visitor, for_node, for_port) == room


def test_no_limit_is_the_systems_own(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, endless))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: None)
    descriptors = Descriptors(lambda: 0)
    assert descriptors.raise_limit() == 1 << 20
    assert descriptors.nodes == ((1 << 20) - 64) // 3
