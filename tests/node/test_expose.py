"""`proxyservice expose` and `twistd proxynode` against the real service, with real visitors."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.protocols.haproxy._v2parser import V2Parser

from tests.node.processes import (
    SCRIPTS,
    EchoServer,
    Program,
    Relay,
    UnixEchoServer,
    visit,
    wait_until,
)
from tests.ports import unused_port

pytestmark = pytest.mark.process

PORTS = range(26000 + os.getpid() % 50 * 40, 26000 + os.getpid() % 50 * 40 + 40)
TRACEBACK = re.compile("Traceback|Unhandled|mistake of ours")


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """One for all tests that leave it running."""
    relay = Relay(tmp_path_factory.mktemp("relay"), unused_port(), PORTS)
    yield relay
    assert relay.end(signal.SIGTERM) == 0
    assert not TRACEBACK.search(relay.stdout + relay.stderr)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


Expose = Callable[..., Program]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Expose]:
    """Start a program with a state directory of this test; in the end it has no traceback."""
    programs: list[Program] = []

    def start(*command: object, **environment: str) -> Program:
        environment.setdefault("STATE_DIRECTORY", str(tmp_path / "state"))
        program = Program(tmp_path / f"program-{len(programs)}", *command, **environment)
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.kill()
        assert not TRACEBACK.search(program.stdout + program.stderr)


@pytest.fixture
def expose(run: Expose) -> Expose:
    return lambda *words, **environment: run(
        SCRIPTS / "proxyservice", "expose", *words, **environment
    )


def address_of(program: Program, target: object) -> str:
    return program.wait_for(f"exposed {re.escape(str(target))} at (\\S+)")[1]


def events(program: Program) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in program.stdout.splitlines(keepends=True) if line[-1] == "\n"
    ]


def event(program: Program, name: str) -> dict[str, Any]:
    program.wait_for(rf'{{"event": "{name}", .*')
    return next(one for one in events(program) if one["event"] == name)


def test_any_client_reaches_a_port_and_the_address_is_the_same_tomorrow(
    relay: Relay, expose: Expose, echo: EchoServer
) -> None:
    exposing = expose(echo.port, "--via", relay.via)
    address = address_of(exposing, echo.port)
    said = os.urandom(1 << 20)
    assert visit(address, said) == said
    assert exposing.end(signal.SIGINT) == 0
    assert exposing.stdout == f"exposed {echo.port} at {address}\n"
    assert re.search(r"ended: 1 visitor, in 1MiB, out 1MiB\n$", exposing.stderr)
    exposing.again()
    assert address_of(exposing, echo.port) == address
    assert exposing.end(signal.SIGTERM) == 0


@pytest.mark.heavy
def test_a_killed_server_comes_back_with_the_same_address(
    tmp_path: Path, expose: Expose, echo: EchoServer
) -> None:
    own_relay = Relay(tmp_path / "relay", unused_port(), PORTS)
    try:
        exposing = expose(echo.port, "--via", own_relay.via)
        address = address_of(exposing, echo.port)
        own_relay.kill()
        exposing.wait_for(f"{own_relay.via}: .*; trying again in .* s", stderr=True)
        own_relay.again()
        exposing.wait_for(f"{echo.port} is reached at {address} again", stderr=True)
        assert visit(address, b"still there?") == b"still there?"
        assert exposing.stdout == f"exposed {echo.port} at {address}\n"
        assert exposing.end() == 0
    finally:
        own_relay.kill()


def test_targets_of_all_kinds_share_a_main_connection(
    relay: Relay, expose: Expose, echo: EchoServer, tmp_path: Path
) -> None:
    path = tmp_path / "app.sock"
    with EchoServer() as other, UnixEchoServer(path):
        targets = [echo.port, f"localhost:{other.port}", f"unix:{path}"]
        exposing = expose(*targets, "--via", relay.via, "--json")
        for target in targets:
            exposing.wait_for(rf'.*"exposed", .*"target": "{target}", .*')
        for told in [one for one in events(exposing) if one["event"] == "exposed"]:
            assert visit(told["address"], b"hello") == b"hello", told
        assert exposing.end() == 0
        names = [one["event"] for one in events(exposing)]
        assert names == ["started", "connected", *["exposed"] * 3, "ended"]


def test_a_server_that_listens_on_ipv6_alone_is_found(relay: Relay, expose: Expose) -> None:
    try:
        server = EchoServer(host="::1")
    except OSError:
        pytest.skip("there is no IPv6")
    with server:
        exposing = expose(server.port, "--via", relay.via)
        assert visit(address_of(exposing, server.port), b"hello") == b"hello"


def test_a_reader_that_takes_one_line_and_goes(
    relay: Relay, echo: EchoServer, tmp_path: Path
) -> None:
    exposing = subprocess.Popen(
        [SCRIPTS / "proxyservice", "expose", str(echo.port), "--via", relay.via, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "STATE_DIRECTORY": str(tmp_path)},
        text=True,
    )
    assert exposing.stdout is not None
    assert '"started"' in exposing.stdout.readline()
    exposing.stdout.close()
    assert exposing.stderr is not None
    assert any("connected to" in line for line in exposing.stderr)
    exposing.send_signal(signal.SIGINT)
    rest = exposing.stderr.read()
    exposing.stderr.close()
    assert exposing.wait(15) == 0
    assert "BrokenPipe" not in rest


def test_another_process_with_the_key_takes_over(
    relay: Relay, expose: Expose, echo: EchoServer
) -> None:
    first = expose(echo.port, "--via", relay.via)
    address = address_of(first, echo.port)
    second = expose(echo.port, "--via", relay.via)
    assert address_of(second, echo.port) == address
    assert first.ended() == 3
    (line,) = [line for line in first.stderr.splitlines() if "superseded" in line]
    assert "another process with this key took over" in line
    assert visit(address, b"to the second") == b"to the second"
    assert second.end() == 0


def test_a_port_is_strict_and_any_other_is_taken_only_when_that_is_said(
    relay: Relay, expose: Expose, echo: EchoServer, tmp_path: Path
) -> None:
    wanted = PORTS[-1]
    first = expose(echo.port, "--via", relay.via, "--port", wanted)
    assert address_of(first, echo.port) == f"127.0.0.1:{wanted}"
    name = f"localhost:{echo.port}"
    strict = expose(name, "--via", relay.via, "--port", wanted, "--json")
    assert strict.ended() == 1
    assert event(strict, "port_unavailable")["port"] == wanted
    assert "exposed" not in strict.stdout
    assert re.search(rf"port {wanted} is unavailable \(.+\); --port-or-any would", strict.stderr)
    second = expose(name, "--via", relay.via, "--port", wanted, "--port-or-any")
    address = address_of(second, name)
    assert address != f"127.0.0.1:{wanted}"
    second.wait_for(rf"port {wanted} is unavailable \(.+\); asking for any other", stderr=True)
    assert visit(address, b"all the same") == b"all the same"


def test_a_service_asks_for_its_port_until_it_has_it(
    relay: Relay, expose: Expose, run: Expose, echo: EchoServer
) -> None:
    wanted = PORTS[-2]
    first = expose(echo.port, "--via", relay.via, "--port", wanted, "--release")
    assert address_of(first, echo.port) == f"127.0.0.1:{wanted}"
    words = ["--via", relay.via, "--expose", f"localhost:{echo.port}", "--port", wanted]
    node = run(SCRIPTS / "twistd", "-n", "--pidfile=", "proxynode", *words)
    node.wait_for(rf"port {wanted} is unavailable \(.+\); asking for it again")
    assert "is reached at" not in node.stdout
    assert node.process.poll() is None
    assert node.end(signal.SIGTERM) == 0


def test_a_key_that_is_made_is_said_and_no_directory_is_made_for_a_path_that_was_typed(
    relay: Relay, expose: Expose, echo: EchoServer, tmp_path: Path
) -> None:
    key = tmp_path / "keys" / "my.key"
    words = [echo.port, "--via", relay.via, "--key", key]
    refused = expose(*words)
    assert refused.ended() == 1
    assert f"there is no directory {key.parent}" in refused.stderr
    assert not key.parent.exists()
    key.parent.mkdir()
    exposing = expose(*words)
    exposing.wait_for(rf"new key SHA256:\S+ made in {key}: .*", stderr=True)
    address_of(exposing, echo.port)
    assert exposing.end() == 0
    exposing.again()
    exposing.wait_for(rf"key SHA256:\S+ in {key}", stderr=True)
    assert exposing.end() == 0


def test_a_socket_that_is_not_there_yet_is_said_and_served_when_it_is(
    relay: Relay, expose: Expose, tmp_path: Path
) -> None:
    path = tmp_path / "app.sock"
    exposing = expose(f"unix:{path}", "--via", relay.via)
    exposing.wait_for(rf"target unix:{path} is down: there is no such socket yet.*", stderr=True)
    address = address_of(exposing, f"unix:{path}")
    with UnixEchoServer(path):
        assert visit(address, b"hello") == b"hello"


def test_a_released_address_is_given_back(relay: Relay, expose: Expose, echo: EchoServer) -> None:
    exposing = expose(echo.port, "--via", relay.via, "--release", "--json")
    address = event(exposing, "exposed")["address"]
    assert exposing.end() == 0
    assert [one["event"] for one in events(exposing)][-2:] == ["released", "ended"]
    assert event(exposing, "released")["address"] == address
    with pytest.raises(ConnectionRefusedError):
        visit(address, b"nobody listens there any more")


def test_a_target_that_is_down_closes_in_order_and_is_told_once(
    relay: Relay, expose: Expose
) -> None:
    port = unused_port()
    exposing = expose(port, "--via", relay.via)
    address = address_of(exposing, port)
    for _ in range(30):
        assert visit(address, b"anybody?") == b""
    exposing.wait_for(f"target {port} is down: .*refused.*", stderr=True)
    assert exposing.stderr.count("is down") == 1
    with EchoServer(port):
        assert visit(address, b"now?") == b"now?"
    assert exposing.end() == 0


def test_the_target_hears_of_the_visitor(relay: Relay, expose: Expose, echo: EchoServer) -> None:
    exposing = expose(echo.port, "--via", relay.via, "--proxy-protocol", "v1")
    address = address_of(exposing, echo.port)
    port = address.rpartition(":")[2]
    line, _, rest = visit(address, b"GET /").partition(b"\r\n")
    assert re.fullmatch(rb"PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ " + port.encode(), line)
    assert rest == b"GET /"
    exposing.end()
    exposing = expose(echo.port, "--via", relay.via, "--proxy-protocol", "v2")
    info, rest = V2Parser().feed(visit(address_of(exposing, echo.port), b"GET /"))
    assert (info.source.host, info.destination.port, rest) == ("127.0.0.1", int(port), b"GET /")


def test_the_next_server_of_the_list_is_tried(
    relay: Relay, expose: Expose, echo: EchoServer
) -> None:
    nobody = f"127.0.0.1:{unused_port()}"
    exposing = expose(echo.port, "--via", nobody, "--via", relay.via)
    assert visit(address_of(exposing, echo.port), b"hello") == b"hello"
    exposing.wait_for(f"{nobody}: .*; trying again in .* s", stderr=True)


def test_a_relay_that_is_another_one_than_before_is_refused(
    relay: Relay, expose: Expose, tmp_path: Path
) -> None:
    pins = tmp_path / "state" / "known-relays"
    pins.parent.mkdir()
    pins.write_text(f"{relay.via} {'00' * 32}\n")
    exposing = expose(1, "--via", relay.via)
    told = f"{relay.via} is not the relay it was: .*{pins}; trying again in 5m"
    exposing.wait_for(f"{relay.via}: {told}", stderr=True)
    assert exposing.end() == 0
    assert exposing.stdout == ""


@pytest.mark.parametrize("content", ["nonsense", None])
def test_a_key_that_cannot_be_used_is_one_line(
    relay: Relay, expose: Expose, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    if content is None:
        path.chmod(0o644)
    else:
        path.write_text(content)
    exposing = expose(1, "--via", relay.via, "--key", path)
    assert exposing.ended() == 1
    assert re.fullmatch(rf"Error: .*{path}.*\n", exposing.stderr)


def test_the_second_signal_ends_it_at_once(
    tmp_path: Path, expose: Expose, echo: EchoServer
) -> None:
    own_relay = Relay(tmp_path / "relay", unused_port(), PORTS)
    try:
        exposing = expose(echo.port, "--via", own_relay.via, "--release")
        address_of(exposing, echo.port)
        own_relay.process.send_signal(signal.SIGSTOP)  # it will not confirm the Release
        exposing.process.send_signal(signal.SIGINT)
        handled = Path(f"/proc/{exposing.process.pid}/status")
        sigint = 1 << signal.SIGINT - 1
        wait_until(
            lambda: not int(re.findall(r"SigCgt:\t(\w+)", handled.read_text())[0], 16) & sigint
        )
        assert exposing.end(signal.SIGINT) == -signal.SIGINT
        assert "ended: " not in exposing.stderr
    finally:
        own_relay.kill()


def test_on_a_terminal_there_is_a_live_line(relay: Relay, echo: EchoServer, tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    command = [SCRIPTS / "proxyservice", "expose", str(echo.port), "--via", relay.via]
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path), "TERM": "xterm"}
    exposing = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=terminal, env=environment, text=True
    )
    os.close(terminal)
    assert exposing.stdout is not None
    try:
        address = exposing.stdout.readline().split()[-1]
        visit(address, b"x" * 1000)
        seen = ""
        while "0 visitors, 1 in all" not in seen:
            seen += os.read(screen, 4096).decode()
        exposing.send_signal(signal.SIGINT)
        assert exposing.wait(15) == 0
        seen += os.read(screen, 65536).decode()
        assert re.search(
            r"\r\x1b\[K\d\d:\d\d:\d\d ended: 1 visitor, in 1000B, out 1000B\r\n$", seen
        )
    finally:
        exposing.kill()
        exposing.wait(15)
        exposing.stdout.close()
        os.close(screen)


# ------------------------------------------------------------------ as a service


def test_a_node_as_a_service(relay: Relay, run: Expose, echo: EchoServer) -> None:
    command = [SCRIPTS / "twistd", "-n", "--pidfile=", "proxynode"]
    words = ["--via", relay.via, "--expose", echo.port]
    first = run(*command, *words)
    reached = first.wait_for(rf"{echo.port} is reached at (\S+)")
    assert visit(reached[1], b"hello") == b"hello"
    second = run(*command, *words)
    assert second.wait_for(rf"{echo.port} is reached at (\S+)")[1] == reached[1]
    assert first.ended() == 3
    assert second.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    "words",
    [
        "--expose 80",
        "--via relay",
        "--via relay --expose 80x",
        "--via a:b:c --expose 80",
        "--via relay --expose 80 --port x",
        "--via relay --expose 80 --proxy-protocol v3",
        "--via relay --expose 80 --labl x",
        "--via relay --expose 80 more",
    ],
)
def test_wrong_options_of_the_service(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from proxyservice.node_tap import Options

    with pytest.raises(SystemExit) as ended:
        Options().parseOptions(words.split())
    assert ended.value.code == 2
    assert re.fullmatch("twistd proxynode: .*\n", capsys.readouterr().err)


def test_the_service_without_a_usable_key_does_not_start(run: Expose, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o644)
    words = ["--via", "127.0.0.1:1", "--expose", "80", "--key", key]
    node = run(SCRIPTS / "twistd", "-n", "--pidfile=", "proxynode", *words)
    assert node.ended() == 1
    assert re.fullmatch(f"proxynode: {key} is no key file.*\n", node.stderr)


# ----------------------------------------------------------------- the endpoint


@pytest.mark.heavy
def test_twist_web_serves_a_folder_with_no_local_port(
    relay: Relay, run: Expose, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    page = os.urandom(1 << 20)
    (folder / "page.bin").write_bytes(page)
    endpoint = f"proxied:{relay.via}:origin=web:key={tmp_path}/web.key"
    web = run(SCRIPTS / "twist", "--log-format=text", "web", "--listen", endpoint, "--path", folder)
    address = web.wait_for(r"web is reached at (\S+)")[1]
    got = subprocess.run(
        ["curl", "-sS", "--max-time", "15", f"http://{address}/page.bin"],
        capture_output=True,
        check=True,
    )
    assert got.stdout == page
    web.end(signal.SIGTERM)
    web.again()
    assert web.wait_for(r"web is reached at (\S+)")[1] == address
    web.end(signal.SIGTERM)
