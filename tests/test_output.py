"""Output never makes its writer wait: it is queued, dropped and counted, and the count is told."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from twisted.logger import Logger, LogPublisher

from proxyservice import output, standard_streams
from proxyservice.errors import StartError
from proxyservice.output import MOST_WAITING_CHARACTERS, Output, Writer
from proxyservice.standard_streams import unblocked
from proxyservice.twistd_log import log_observer
from tests.node.processes import wait_until


class Disk:
    """A sink that waits, or fails, as long as it is told to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.free = threading.Event()
        self.free.set()
        self.error: OSError | None = None

    def __call__(self, text: str) -> None:
        self.free.wait(20)
        if self.error is not None:
            raise self.error
        self.lines += text.splitlines()


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.free.set()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def settled(what: Output) -> None:
    wait_until(lambda: what.is_idle, what="everything written")


def test_lines_arrive_in_their_order(disk: Disk) -> None:
    stream = Output(disk)
    for number in range(1000):
        print("line", number, file=stream)
    settled(stream)
    assert disk.lines == [f"line {number}" for number in range(1000)]


def test_a_sink_that_waits_costs_the_writer_nothing_and_what_is_missing_is_told(disk: Disk) -> None:
    stream = Output(disk)
    disk.free.clear()
    line = "x" * 99 + "\n"
    began = time.monotonic()
    count = 3 * MOST_WAITING_CHARACTERS // len(line)
    for _ in range(count):
        stream.write(line)
    assert time.monotonic() - began < 5.0
    disk.free.set()
    settled(stream)
    stream.write("and on it goes\n")
    settled(stream)
    told = [re.fullmatch(r"\((\d+) lines? could not be written here\)", one) for one in disk.lines]
    missing = sum(int(match[1]) for match in told if match)
    written = sum(one == line[:-1] for one in disk.lines)
    assert written + missing == count
    assert missing > count // 2
    assert told[-2], "it is told when output flows again, where the lines are missing"
    assert disk.lines[-1] == "and on it goes"


def test_what_the_sink_refuses_is_counted_until_it_takes_something(disk: Disk) -> None:
    stream = Output(disk)
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    stream.write("one\n")
    stream.write("two\nthree\n")
    settled(stream)
    disk.error = None
    stream.write("four\n")
    settled(stream)
    assert disk.lines == ["(3 lines could not be written here)", "four"]


def test_a_sink_that_raises_whatever_it_likes_goes_on(disk: Disk) -> None:
    def write(text: str) -> None:
        if "bad" in text:
            raise ZeroDivisionError
        disk(text)

    stream = Output(write)
    stream.write("bad\n")
    stream.write("good\n")
    settled(stream)
    assert disk.lines == ["(1 line could not be written here)", "good"]


def test_outputs_of_one_file_share_its_order(disk: Disk) -> None:
    writer = Writer()
    first, second = Output(disk, writer), Output(disk, writer)
    for number in range(100):
        (first, second)[number % 2].write(f"{number}\n")
    settled(first)
    assert disk.lines == [str(number) for number in range(100)]


def test_a_stream_that_nobody_reads_is_left_behind_at_the_end(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    script = (
        "import sys; from proxyservice.standard_streams import free_standard_streams;"
        "free_standard_streams();"
        "[print('x' * 999) for _ in range(1000)];"
        "print('the last word', file=sys.stderr)"
    )
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, timeout=30
    )
    assert ran.returncode == 0
    assert ran.stderr == b"the last word\n"
    assert time.monotonic() - began < output.SETTLING_SECONDS + 5.0


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("end", "status"),
    [("", 0), ("atexit.register(node_tap._exit, 3)", 3)],
    ids=["in order", "with a status that twistd has not"],
)
def test_a_slow_reader_hears_everything_that_was_said_before_the_end(
    end: str, status: int, pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    script = (
        "import atexit; from proxyservice import node_tap;"
        "from proxyservice.standard_streams import free_standard_streams; free_standard_streams();"
        f"[print('x' * 999) for _ in range(200)]; print('the last word'); {end}"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=writer)
    os.close(writer)
    heard = b""
    while got := os.read(reader, 8192):
        heard += got
        threading.Event().wait(0.01)  # a reader that takes its time
    assert process.wait(20) == status
    assert heard.endswith(b"\nthe last word\n")
    assert heard.count(b"\n") == 201


def test_a_line_that_was_cut_by_a_full_disk_does_not_spoil_the_next(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    real, full = os.write, [True]

    def write(descriptor: int, data: bytes) -> int:
        if not full[0] or descriptor != writer:
            return real(descriptor, data)
        if len(data) < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:4])

    monkeypatch.setattr(os, "write", write)
    sink = standard_streams._Descriptor(writer, "utf-8")
    with pytest.raises(OSError, match="No space"):
        sink("12345678\n")
    full[0] = False
    sink("next\n")
    assert os.read(reader, 99) == b"1234\nnext\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_encoding_lacks_is_written_all_the_same(
    encoding: str, pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    stream = unblocked(os.fdopen(writer, "w", encoding=encoding, closefd=False))
    print("größe 東京 \udce9", file=stream)
    heard = os.read(reader, 99)
    assert heard.endswith(b"\\udce9\n")
    assert heard.startswith("größe".encode(encoding, "backslashreplace"))


def test_a_reader_that_has_gone_is_no_error(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = unblocked(os.fdopen(writer, "w", closefd=False))
    os.close(reader)
    print("nobody", file=stream)
    assert isinstance(stream, Output)
    settled(stream)


def test_a_stream_in_memory_stays_and_one_that_is_closed_goes_nowhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert unblocked(sys.stdout) is sys.stdout
    print("nowhere", file=unblocked(None))
    with open(tmp_path / "x", "w") as closed:
        pass
    print("nowhere", file=unblocked(closed))


def test_a_child_that_is_forked_says_what_it_has_to_say_once() -> None:
    script = """
import os, sys
from proxyservice.standard_streams import free_standard_streams
free_standard_streams()
print("before")
child = os.fork()
if not child:
    print("child")
    sys.exit()
os.waitpid(child, 0)
print("after")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30)
    assert ran.stdout == b"before\nchild\nafter\n"
    assert ran.stderr == b""


# ------------------------------------------------------------------- twistd's log


@pytest.fixture(autouse=True)
def rotation() -> Iterator[None]:
    """A log file takes SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def logged(options: dict[str, object], *lines: Callable[[Logger], None]) -> None:
    observer = log_observer(options)
    log = Logger(observer=LogPublisher(observer))
    for say in lines:
        say(log)
    stream = getattr(observer, "_outFile", None)
    if stream is not None:
        settled(stream)


def test_the_log_goes_to_the_file_that_twistd_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    logged({"logfile": str(path)}, lambda log: log.info("hello {who}", who="größe\x1b[2J\r"))
    assert re.fullmatch(r"\S+ \[\S+#info\] hello größe\?\[2J\?\n", path.read_text(encoding="utf-8"))


def test_what_a_peer_says_begins_no_line_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    logged({"logfile": str(path)}, lambda log: log.info("{who}", who="x\n2026 [-] forged"))
    assert [line[0] for line in path.read_text().splitlines()][1:] == ["\t"]


def test_a_log_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot write the log file .*: "):
        log_observer({"logfile": str(tmp_path)})
    with pytest.raises(StartError, match="--logfile"):
        log_observer({"logfile": "-"})


def test_syslog_gets_a_line_each_with_its_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    syslog = pytest.importorskip("twisted.python.syslog")
    said: list[tuple[int, str]] = []
    heard = threading.Event()

    def write(priority: int, line: str) -> None:
        said.append((priority, line))
        heard.set()

    monkeypatch.setattr(syslog.SyslogObserver, "syslog", staticmethod(write))
    logged({"syslog": True, "prefix": "relay"}, lambda log: log.info("hello\x1b"))
    assert heard.wait(20)
    ((priority, line),) = said
    assert priority == syslog.syslog.LOG_INFO
    assert line.endswith("hello?")
