"""Child processes: started in groups, waited for with deadlines, always ended.

Knows /proc (CPU seconds, resident memory) and signals. Does not know what the
programs are.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 3.0  # between SIGTERM and SIGKILL
POLL_SECONDS = 0.02
LAST_LINES = 15  # of a program's output, shown when it fails
# Between two readings of CPU time that have to agree, and how long to wait for that.
QUIET_SECONDS, SETTLE_SECONDS = 0.1, 3.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_running: set[Process] = set()


class BenchmarkError(Exception):
    """Something could not be started or measured; the text says what and why."""


def _die_with_parent() -> None:
    """In the child: be killed when the benchmark dies, however it dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One program, leader of a process group; its output goes to a file."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.command = list(command)
        self.log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        _running.add(self)

    @property
    def pid(self) -> int:
        return self._child.pid

    def output(self) -> str:
        """Everything it has printed so far, both streams."""
        return self.log.read_text(errors="replace")

    def check_alive(self) -> None:
        """Raise BenchmarkError with the end of its output if it has ended."""
        if self._child.poll() is not None:
            status = self._child.returncode
            raise BenchmarkError(f"{self.command[0]} ended with status {status}:\n{self._tail()}")

    def wait_for(self, pattern: str, seconds: float, count: int = 1) -> list[re.Match[str]]:
        """Wait until `pattern` was printed `count` times; the matches, in order."""
        expression = re.compile(pattern)
        found: list[re.Match[str]] = []

        def printed() -> bool:
            self.check_alive()
            found[:] = expression.finditer(self.output())
            return len(found) >= count

        try:
            wait_until(printed, seconds, f"{self.command[0]} to print {pattern}")
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}\n{self._tail()}") from None
        return found

    def _tail(self) -> str:
        return "\n".join(self.output().splitlines()[-LAST_LINES:])

    def stop(self) -> None:
        """End the whole group: SIGTERM, and SIGKILL for what is left after STOP_SECONDS."""
        if self not in _running:
            return
        _running.discard(self)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self._child.wait(STOP_SECONDS)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)


def stop_all() -> None:
    """End every process that is still running; last started, first ended."""
    for process in sorted(_running, key=lambda p: p.pid, reverse=True):
        process.stop()


atexit.register(stop_all)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll `condition` until it holds; BenchmarkError once `seconds` are over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"waited {seconds:g} s for {what}")
        time.sleep(POLL_SECONDS)


def run(command: Sequence[str], seconds: float) -> str:
    """Run to its end within `seconds` and return what it printed on stdout."""
    try:
        result = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            preexec_fn=_die_with_parent,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{' '.join(command[:6])} took more than {seconds:g} s") from error
    if result.returncode != 0:
        text = (result.stderr.strip() or result.stdout.strip())[-400:]
        raise BenchmarkError(f"{' '.join(command[:6])} failed ({result.returncode}): {text}")
    return result.stdout


def _tree(roots: Iterable[Process]) -> list[int]:
    """Pids of these processes and of all that descend from them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int(_stat_fields(int(entry.name))[1])
                children.setdefault(parent, []).append(int(entry.name))
    pids = [process.pid for process in roots]
    for pid in pids:
        pids.extend(children.get(pid, ()))
    return pids


def _stat_fields(pid: int) -> list[str]:
    """Read the fields of /proc/PID/stat after the name: [0] state, [1] parent, [11] utime, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(roots: Iterable[Process]) -> float:
    """User and system time so far, of living descendants and of ended ones waited for."""
    ticks = 0
    for pid in _tree(roots):
        with contextlib.suppress(OSError):
            ticks += sum(int(field) for field in _stat_fields(pid)[11:15])
    return ticks / _TICKS_PER_SECOND


def settled_cpu_seconds(roots: Sequence[Process]) -> float:
    """As `cpu_seconds`, once two readings agree: what ends with a load has ended and is counted.

    A child that ends between the reading of its parent and its own would be missed.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    before, now = -1.0, cpu_seconds(roots)
    while before != now and time.monotonic() < deadline:
        time.sleep(QUIET_SECONDS)
        before, now = now, cpu_seconds(roots)
    return now


def resident_bytes(roots: Iterable[Process]) -> int:
    """Memory that these processes alone cost: anonymous resident pages, no shared files."""
    total = 0
    for pid in _tree(roots):
        with contextlib.suppress(OSError):
            resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
            total += (int(resident) - int(shared)) * _PAGE_BYTES
    return total


def raise_descriptor_limit(wanted: int) -> int:
    """Raise RLIMIT_NOFILE (children inherit it) as far as permitted; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, hard), max(wanted, hard)))
        return max(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard > soft else soft
