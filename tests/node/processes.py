"""Programs in child processes, and the servers and visitors around them."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

SCRIPTS = Path(sys.executable).parent
ENDS_SECONDS = 15.0
REACTOR_DESCRIPTORS = 4
"""What a reactor opens for itself when it begins to run, after the service has started."""

LONGEST_TURN_MS = 1000.0
"""Of a service on a machine that does other things, too; by itself it is some milliseconds."""


def open_descriptors(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(descriptor))
    return found


def wait_until(true: Callable[[], object], seconds: float = 20.0, what: object = "") -> None:
    """Poll a condition; ``what`` is told when it does not come true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"it did not happen in time: {what}"
        select.select([], [], [], 0.02)  # let the others run


HELD_SECONDS = 45.0
"""By then no port is held any more (`--hold-messages`)."""


class Program:
    """One command; what it says goes to files, so that no pipe can fill up."""

    pass_fds: tuple[int, ...] = ()
    """Descriptors that it inherits."""

    def __init__(self, directory: Path, *command: object, **environment: str) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._environment = environment
        self._command = [str(word) for word in command]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **self._environment}
        with (
            (self.directory / "stdout").open("wb") as stdout,
            (self.directory / "stderr").open("wb") as stderr,
        ):
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=self.directory,
                env=environment,
                pass_fds=self.pass_fds,
            )

    def again(self) -> None:
        """Start the same once more, with its files empty."""
        self.process = self._start()

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()

    def wait_for(self, pattern: str, *, stderr: bool = False) -> re.Match[str]:
        """Until a whole line that fits has been written."""
        found: list[re.Match[str]] = []

        def has_come() -> bool:
            ended = self.process.poll() is not None
            text = self.stderr if stderr else self.stdout
            match = re.search(rf"^(?:.* )?{pattern}\n", text, re.MULTILINE)
            if match is not None:
                found.append(match)
            elif ended:
                raise AssertionError(f"it ended without {pattern!r}: {self.stdout}{self.stderr}")
            return match is not None

        wait_until(has_come, what=f"{pattern!r} in {self.stdout}{self.stderr}")
        return found[0]

    def end(self, number: int = signal.SIGINT, seconds: float = ENDS_SECONDS) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.ended(seconds)

    def ended(self, seconds: float = ENDS_SECONDS) -> int:
        """Wait until it ends by itself, so long at most; return the exit status."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(ENDS_SECONDS)


class Relay(Program):
    """`twistd proxyservice` on loopback; the same ports and state at each start."""

    twistd: tuple[object, ...] = (SCRIPTS / "twistd",)

    def __init__(self, directory: Path, port: int, ports: range, *options: str) -> None:
        self.port = port
        self.ports = ports
        super().__init__(
            directory,
            *(*self.twistd, "-n", "--pidfile=", "proxyservice", "--state-dir", "state"),
            *("--listen", f"tcp:{port}:interface=127.0.0.1", "--port-interface", "127.0.0.1"),
            *("--ports", f"{ports.start}-{ports.stop - 1}", "--public-host", "127.0.0.1"),
            *options,
        )
        self._started()

    def again(self) -> None:
        super().again()
        self._started()

    def _started(self) -> None:
        self.wait_for("started: .*")
        self._descriptors_at_start = self.descriptors

    @property
    def descriptors(self) -> int:
        """How many are open."""
        return len(open_descriptors(self.process.pid))

    def finish(self) -> None:
        """All have left: it is what it was at its start, ends well, and no turn took too long.

        But for the ports that it has leased: they are held for a while. The log names only some
        of many, so the hold may have to end.
        """
        ports = set(re.findall(r"leased port (\d+)", self.stdout))
        most = self._descriptors_at_start + REACTOR_DESCRIPTORS + len(ports)
        few = f"no more than {most} descriptors"
        wait_until(lambda: self.descriptors <= most, HELD_SECONDS, what=few)
        assert self.end(signal.SIGTERM) == 0
        longest_ms = float(self.wait_for(r"the longest turn took ([\d.]+) ms")[1])
        assert longest_ms < LONGEST_TURN_MS

    @property
    def via(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self, port: int = 0, *, source: str = "") -> socket.socket:
        """A connection to the main port, or to another; what is said leaves at once."""
        there = ("127.0.0.1", port or self.port)
        connection = socket.create_connection(there, timeout=20, source_address=(source, 0))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class _Serving(socketserver.ThreadingMixIn):
    """Serves from its making to its end."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def serve(self: Any) -> None:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self: Any, *error: Any) -> None:
        self.shutdown()
        self.server_close()


class EchoServer(_Serving, socketserver.TCPServer):
    """Sends back what it gets, its end of input too."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Echo)
        self.port = int(self.server_address[1])
        self.serve()


class UnixEchoServer(_Serving, socketserver.UnixStreamServer):
    """The same at a path."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Echo)
        self.serve()


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(ConnectionError):  # a visitor that was cut is no trouble of the target
            while data := self.request.recv(65536):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_WR)


def visit(address: str, said: bytes) -> bytes:
    """Say something, half-close, and return all that comes back until the end.

    Raises ConnectionResetError when the end is no orderly one.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=15) as visitor:
        visitor.sendall(said)
        visitor.shutdown(socket.SHUT_WR)
        with visitor.makefile("rb") as answer:
            return answer.read()
