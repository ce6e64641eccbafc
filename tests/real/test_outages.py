"""The server dies, or the network swallows everything: both sides find out, addresses are kept."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.processes import SCRIPTS, EchoServer, Program, Relay, visit, wait_until
from tests.real.conftest import FULL, TRACEBACK, Run, address_of, unused_port
from tests.real.namespaces import NODE, RELAY, RELAY_ADDRESS, BlackHole

pytestmark = [pytest.mark.process, pytest.mark.heavy]

RECOVERY_SECONDS = 10.0


def test_visitors_come_again_seconds_after_a_killed_server_is_back(
    own_relay: Relay, expose: Run, echo: EchoServer
) -> None:
    exposing = expose(echo.port, "--via", own_relay.via)
    address = address_of(exposing, echo.port)
    outcomes: list[str] = []
    stopping = threading.Event()

    def keep_coming() -> None:
        while not stopping.wait(0.02):
            try:
                outcomes.append("served" if visit(address, b"x" * 1000) == b"x" * 1000 else "cut")
            except OSError as error:
                outcomes.append(type(error).__name__)

    visitor = threading.Thread(target=keep_coming)
    visitor.start()
    try:
        for _ in range(3):
            own_relay.kill()
            outcomes.clear()
            wait_until(lambda: "ConnectionRefusedError" in outcomes)
            own_relay.again()
            outcomes.clear()
            wait_until(lambda: "served" in outcomes, RECOVERY_SECONDS)
            assert "cut" not in outcomes, "a transfer that was cut looked complete"
    finally:
        stopping.set()
        visitor.join(20)
    assert exposing.stdout == f"exposed {echo.port} at {address}\n"
    assert exposing.end() == 0


# --------------------------------------------------------------------- a black hole

permitted = pytest.mark.skipif(not BlackHole.permitted(), reason="no network namespaces here")


class Far:
    """A relay in one namespace and, in another, `expose` with an echo behind it."""

    def __init__(self, hole: BlackHole, run: Run, directory: Path, *options: object) -> None:
        self.hole = hole
        self.run = run
        port, target = unused_port(), unused_port()
        self.via = f"{RELAY_ADDRESS}:{port}"
        twistd = (SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice", *options)
        self.relay = Program(
            directory / "relay",
            *hole.command(RELAY, *twistd, "--state-dir", "state", "--listen", f"tcp:{port}"),
        )
        self.relay.wait_for("started: .*")
        echo = "from tests.node.processes import EchoServer; import signal\n"
        echo += "EchoServer.handle_error = lambda *_: None\n"  # resets are what is wanted here
        echo += f"with EchoServer({target}): print('echoing', flush=True); signal.pause()"
        run(*hole.command(NODE, sys.executable, "-c", echo)).wait_for("echoing")
        words = (SCRIPTS / "proxyservice", "expose", target, "--via", self.via, "--json")
        self.exposing = run(*hole.command(NODE, *words))
        self.address = self.event("exposed")["address"]

    def event(self, name: str) -> dict[str, Any]:
        line = self.exposing.wait_for(rf'({{"event": "{name}", .*)')[1]
        return dict(json.loads(line))

    def visit(self) -> bytes:
        """From the relay's side of the hole."""
        code = "from tests.node.processes import visit; import sys\n"
        code += f"sys.stdout.buffer.write(visit({self.address!r}, b'hello'))"
        visitor = self.run(*self.hole.command(RELAY, sys.executable, "-c", code))
        visitor.ended()
        return visitor.stdout.encode()

    def found_within(self, seconds: float) -> None:
        """Both sides notice, by themselves."""
        began = time.monotonic()
        told = re.compile('"event": "disconnected"'), re.compile("node gone from port")
        wait_until(
            lambda: told[0].search(self.exposing.stdout) and told[1].search(self.relay.stdout),
            seconds,
            lambda: (self.exposing.stdout, self.relay.stdout),
        )
        assert time.monotonic() - began <= seconds


@pytest.fixture
def far(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> Iterator[Far]:
    with BlackHole() as hole:
        far = Far(hole, run, tmp_path, *request.param)
        yield far
        far.relay.kill()
        far.exposing.kill()
    assert not TRACEBACK.search(far.relay.stdout + far.relay.stderr)


QUICK = ("--keepalive", "1s")
LIMITS = [pytest.param(QUICK, 5.0, id="keepalive 1 s")]
if FULL:
    LIMITS.append(pytest.param((), 50.0, id="the default"))


@permitted
@pytest.mark.parametrize(("far", "seconds"), LIMITS, indirect=["far"])
def test_t20_an_idle_connection_through_a_black_hole_is_found_and_replaced(
    far: Far, seconds: float
) -> None:
    assert far.visit() == b"hello"
    far.hole.swallow()
    far.found_within(seconds)
    far.hole.open_up()
    resumed = far.event("resumed")
    assert resumed["address"] == far.address
    assert far.visit() == b"hello"


BULK = """
import socket, sys, threading
visitor = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def until_cut(work):
    try:
        while work():
            pass
    except ConnectionResetError:
        print("reset", flush=True)
    except BrokenPipeError:
        pass  # the other one has been told
reading = threading.Thread(target=until_cut, args=(lambda: visitor.recv(65536),))
reading.start()
print("sending", flush=True)
until_cut(lambda: visitor.send(bytes(65536)))
reading.join()
"""


@permitted
@pytest.mark.skipif(not FULL, reason="35 seconds; PROXYSERVICE_FULL=1")
@pytest.mark.parametrize("far", [()], indirect=True)
def test_t20_with_data_in_flight_a_black_hole_is_found_in_35_seconds(far: Far) -> None:
    host, _, port = far.address.rpartition(":")
    visitor = far.run(*far.hole.command(RELAY, sys.executable, "-c", BULK, host, port))
    visitor.wait_for("sending")
    far.hole.swallow()
    far.found_within(35.0)
    visitor.wait_for("reset")
    far.hole.open_up()
    assert far.event("resumed")["address"] == far.address
