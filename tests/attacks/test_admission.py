"""One source that would have everything: connections, their rate, memory, places to wait.

All limits are on (`--trusted-sources none`): the attacker is one address of
loopback, the good ones come from another.
"""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import (
    GoodPair,
    ProvedNode,
    announcement,
    application_frame,
    closed,
    connect_again_and_again,
    connections,
    receive,
    receive_message,
    register,
)
from tests.attacks.running import RunningService, figure, scaled
from tests.node.processes import wait_until

pytestmark = [pytest.mark.process, pytest.mark.heavy]

MIB = 1 << 20
ATTACKER = "127.0.0.66"
UNTRUSTED = ("--trusted-sources", "none")
SPARE_AND_MOVING_BYTES = 24 * MIB  # kept for the next frame, or copied to a larger place


def limits(**values: object) -> tuple[str, ...]:
    """Options."""
    said = (f"{name.replace('_', '-')}={value}" for name, value in values.items())
    return tuple(word for one in said for word in ("--limit", one))


def still_open(peers: list[socket.socket]) -> int:
    """How many the service has not ended."""
    poller = select.poll()
    for peer in peers:
        poller.register(peer, select.POLLRDHUP)
    return len(peers) - len(poller.poll(0))


def prompt(service: RunningService, number: int) -> float:
    """How long a node of another source waits for its port."""
    begun = time.monotonic()
    register(service, number)[0].close()
    return time.monotonic() - begun


# ------------------------------------------------------------------ connections of one source


def test_proved_connections_without_a_lease_are_bounded_and_go(tmp_path: Path) -> None:
    """Of 60 of them, 20 may be there; a moment later none, and who has a lease stays."""
    options = (*UNTRUSTED, *limits(connections_per_source=20, seconds_without_lease="2s"))
    with (
        RunningService(tmp_path, *options) as service,
        GoodPair(service, 1) as pair,
        ExitStack() as stack,
    ):
        idle = []
        for _ in range(60):
            key = Ed25519PrivateKey.generate()
            node = ProvedNode(service, key, source=ATTACKER, asks=False)
            idle.append(stack.enter_context(node.connection))
        holder = ProvedNode(service, Ed25519PrivateKey.generate(), source=ATTACKER)
        stack.enter_context(holder.connection)
        assert still_open(idle) <= 20
        pair.relay_one()
        wait_until(lambda: still_open(idle) == 0, what=service.log)
        assert still_open([holder.connection]) == 1
        pair.relay_one()


@pytest.mark.heavy
def test_a_source_that_connects_very_often_keeps_nobody_waiting(tmp_path: Path) -> None:
    """1,500 a second of one source, as far as the machine makes that many."""
    seconds, stop = scaled(30, 4), Event()
    with RunningService(tmp_path, *UNTRUSTED, lease_ports=40) as service:
        with GoodPair(service, 1) as pair:
            flood = [
                Thread(target=connect_again_and_again, args=(service, ATTACKER, 500.0, stop))
                for _ in range(3)
            ]
            for one in flood:
                one.start()
            waited, until = [], time.monotonic() + seconds
            try:
                while time.monotonic() < until:
                    waited.append(prompt(service, 100 + len(waited) % 6))
                    waited.append(pair.relay_one())
                    time.sleep(0.1)
            finally:
                stop.set()
                for one in flood:
                    one.join()
            figure("the longest wait of a good node", max(waited), "s")
            assert max(waited) < 1
        service.wait_to_say("too many connections a second from its address")


# ---------------------------------------------------------------------- memory of one source


@pytest.mark.heavy
def test_unfinished_frames_of_one_source_push_nobody_out(tmp_path: Path) -> None:
    """128 of 64 MiB each, with 64 MiB of memory: other visitors come in, a good one stays."""
    options = (*UNTRUSTED, *limits(memory_bytes="64MiB"))
    with (
        RunningService(tmp_path, *options) as service,
        GoodPair(service, 1) as pair,
        ExitStack() as stack,
    ):
        pair.relay_one()
        before = service.resident_bytes
        frame = application_frame(bytes(4 * MIB))
        with service.connect(pair.port) as good:
            good.sendall(frame[: 2 * MIB])  # more than any of the attacker's has at first
            attackers = connections(stack, service, scaled(128, 64), pair.port, ATTACKER)
            for attacker in attackers:
                with suppress(OSError):
                    attacker.sendall(announcement(64 * MIB, bytes(MIB)))
                pair.relay_one()
            assert still_open(attackers) < len(attackers), "its largest goes"
            with service.connect(pair.port) as another:
                said = application_frame(b"another")
                another.sendall(said)
                assert receive(pair.node, len(said)) == said
            good.sendall(frame[2 * MIB :])
            assert receive(pair.node, len(frame)) == frame, "it was not cut"
        more = service.resident_bytes - before
        figure("more memory", more / MIB, "MiB")
        assert more < 64 * MIB + SPARE_AND_MOVING_BYTES


# ------------------------------------------------------- what nodes leave when they reconnect


def test_silent_connections_beside_nodes_stay_and_are_not_told(tmp_path: Path) -> None:
    options = (*UNTRUSTED, *limits(seconds_to_first_byte="1s", seconds_to_speak="200ms"))
    with RunningService(tmp_path, *options) as service, ExitStack() as stack:
        for number in range(8):
            stack.enter_context(register(service, number)[0])
        silent = connections(stack, service, 8)
        others = connections(stack, service, 2, source=ATTACKER)
        assert all(map(closed, others)), "no node came from there"
        assert still_open(silent) == 8
        assert "refused 127.0.0.1" not in service.log
        service.wait_to_say(f"refused {ATTACKER}")


# ----------------------------------------------------------------------- places to wait


def test_a_denied_network_has_no_place_to_wait(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[default]\nvisitor_deny = ["{ATTACKER}/32"]\n')
    options = (*UNTRUSTED, "--hold", "1m", "--policy", str(policy))
    with RunningService(tmp_path, *options) as service, ExitStack() as stack:
        key = Ed25519PrivateKey.generate()
        away = ProvedNode(service, key, streams=True)
        away.connection.close()
        wait_until(lambda: "node gone from port" in service.log, what=service.log)
        for _ in range(80):
            with suppress(ConnectionResetError):  # as soon as that
                denied = stack.enter_context(service.connect(away.port, source=ATTACKER))
                assert closed(denied)
        good = stack.enter_context(service.connect(away.port))
        node = ProvedNode(service, key, streams=True)
        stack.enter_context(node.connection)
        assert node.port == away.port
        assert receive_message(node.connection).opcode == Opcode.STREAM_OPEN
        assert still_open([good]) == 1
