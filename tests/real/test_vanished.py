"""Visitors whose network swallows everything give their places up, whatever they were doing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.node.processes import SCRIPTS, Program, wait_until
from tests.ports import unused_port
from tests.real.conftest import Run
from tests.real.namespaces import NODE, RELAY, RELAY_ADDRESS, BlackHole

pytestmark = [
    pytest.mark.process,
    pytest.mark.heavy,
    pytest.mark.skipif(not BlackHole.permitted(), reason="no network namespaces here"),
]

VANISHED_SECONDS = 6
FOUND_WITHIN_SECONDS = 30.0
"""TCP asks three times, and on a busy machine late."""

VISITOR = """
import signal, socket, sys, threading
what, host, port = sys.argv[1:]
visitor = socket.create_connection((host, int(port)))
visitor.sendall(b"x")
assert visitor.recv(1) == b"x"
def send():
    while what != "idle":
        visitor.sendall(bytes(65536))
def receive():
    while what == "busy":
        visitor.recv(65536)
for work in (send, receive):
    threading.Thread(target=work, daemon=True).start()
print("there", flush=True)
signal.pause()
"""

PROBE = """
import sys
from tests.node.processes import visit
try:
    print(visit(sys.argv[1], b"hello").decode())
except OSError:
    print("turned away")
"""

ECHO = """
import signal
from tests.node.processes import EchoServer
EchoServer.handle_error = lambda *_: None
with EchoServer({port}):
    print("echoing", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("what", ["idle", "busy", "reads nothing"])
def test_the_place_of_a_visitor_that_vanished_is_free_again(
    what: str, run: Run, tmp_path: Path
) -> None:
    with BlackHole() as hole:
        port, target = unused_port(), unused_port()
        limits = f"visitor-vanished-seconds={VANISHED_SECONDS}s", "visitors-per-lease=1"
        relay = Program(
            tmp_path / "relay",
            *hole.command(RELAY, SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice"),
            *("--state-dir", "state", "--listen", f"tcp:{port}"),
            *(word for limit in limits for word in ("--limit", limit)),
        )
        try:
            relay.wait_for("started: .*")
            echo = ECHO.format(port=target)
            run(*hole.command(RELAY, sys.executable, "-c", echo)).wait_for("echoing")
            words = (SCRIPTS / "proxyservice", "expose", target, "--via", f"{RELAY_ADDRESS}:{port}")
            exposing = run(*hole.command(RELAY, *words))
            address = exposing.wait_for(r"exposed \S+ at (\S+)")[1]
            host, _, visited = address.rpartition(":")
            code = hole.command(NODE, sys.executable, "-c", VISITOR, what, host, visited)
            run(*code).wait_for("there")

            def hears() -> str:
                probe = run(*hole.command(RELAY, sys.executable, "-c", PROBE, address))
                probe.ended()
                return probe.stdout.strip()

            assert hears() == "turned away"
            hole.swallow()
            wait_until(lambda: hears() == "hello", FOUND_WITHIN_SECONDS, lambda: relay.stdout)
        finally:
            relay.kill()
