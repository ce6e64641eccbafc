"""The real service in a child process, and what can be seen of it from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.node.processes import wait_until
from tests.ports import unused_port

SCRIPTS = Path(sys.executable).parent
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STOP_SECONDS = 15.0
HOST = "127.0.0.1"


def full() -> bool:
    """Whether the full figures are wanted, which take minutes."""
    return os.environ.get("PROXYSERVICE_FULL") == "1"


def scaled(whole: int, reduced: int) -> int:
    """How many: the figure of the threat, or enough to see the defence."""
    return whole if full() else reduced


def figure(what: str, value: float, unit: str) -> None:
    """Print what was measured, for the table in docs/security.md; `pytest -s` shows it."""
    if full():
        print(f"\nfigure: {what}: {value:.4g} {unit}")


class RunningService:
    """`twistd proxyservice` on a free port; ends with the block, without a traceback in its log."""

    def __init__(self, directory: Path, *options: str, lease_ports: int = 8) -> None:
        self.port = unused_port()
        self._log = directory / "service.log"
        low = 24000 + os.getpid() % 200 * 40
        self.lease_ports = range(low, low + lease_ports)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice"),
                    *("--state-dir", directory / "state"),
                    *("--listen", f"tcp:{self.port}:interface={HOST}"),
                    *("--ports", f"{low}-{low + lease_ports - 1}"),
                    *options,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def __enter__(self) -> RunningService:
        wait_until(self._listens, what=self.log)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        alive = self.alive
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if error is None:
            assert alive, self.log
            assert status == 0, self.log
            self.assert_clean_log()

    def wait_to_say(self, text: str) -> None:
        """Until it stands in the log, which a thread of its own writes."""
        wait_until(lambda: text in self.log, what=f"{text!r} in the log")

    def assert_clean_log(self) -> None:
        for word in ("Traceback", "Unhandled", "failed"):
            assert word not in self.log, self.log

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def resident_bytes(self) -> int:
        """Memory of its own: resident, less what is shared with files."""
        fields = Path(f"/proc/{self._process.pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * PAGE_BYTES

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def connect(self, port: int = 0, timeout: float = 10.0, source: str = "") -> socket.socket:
        """A connection to the main port, or to another; `source` is one of 127.0.0.0/8."""
        return socket.create_connection((HOST, port or self.port), timeout, (source, 0))

    def _listens(self) -> bool:
        """On all its ports: they are told when the last one listens."""
        assert self.alive, self.log
        return "started: " in self.log
