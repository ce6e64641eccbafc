"""Text streams that never make their writer wait: whoever reads them, or does not.

A terminal after Ctrl-S, a pipe that nobody reads, a hung log daemon or disk all
block whoever writes to them, and a blocked reactor serves nobody. Each file is
therefore written by a thread of its own, from a queue with a bound. What finds
no room, or cannot be written, is dropped and counted, and the count is told
when output flows again.

A thread, and not O_NONBLOCK: that flag belongs to the open file, which the
user's shell and other processes share, and it does nothing for files on a disk.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable

MOST_WAITING_CHARACTERS = 256 * 1024
"""What waits in one queue: hours of an ordinary log, and a bound for a busy one."""

STUCK_SECONDS = 1.0
"""At the end of the process: output that moves no further for so long is given up."""

SETTLING_SECONDS = 5.0
"""The end waits so long at most, for a reader that is merely slow."""

FORK_SECONDS = 0.5
"""A process that becomes a daemon waits so long at most for what it said before."""

Sink = Callable[[str], None]
"""Writes text, as slowly as it likes. Raises OSError or ValueError when it cannot."""


def lines_lost(lines: int) -> str:
    """What stands where lines are missing."""
    return f"({lines} line{'' if lines == 1 else 's'} could not be written here)\n"


class Output(io.TextIOBase):
    """A text stream in front of a ``sink``; ``write`` and ``flush`` return immediately.

    Outputs with the same ``writer`` keep their order among each other.
    ``tell_lost`` makes the line that says how many are missing.
    """

    def __init__(
        self,
        sink: Sink,
        writer: Writer | None = None,
        *,
        tell_lost: Callable[[int], str] = lines_lost,
        descriptor: int | None = None,
    ) -> None:
        super().__init__()
        self._sink = sink
        self._writer = writer or Writer()
        self.tell_lost = tell_lost
        self._descriptor = descriptor
        self._is_terminal = descriptor is not None and os.isatty(descriptor)
        self._begun = ""  # of a line that is not complete
        self._failed = 0  # lines that the sink did not take; the writer's thread alone
        self.without_room = 0
        """Lines that the queue did not take and nobody has been told of; the writer's."""

    def write(self, text: str) -> int:
        """Take the text; it leaves with the end of its line, or with `flush`."""
        self._begun += text
        if self._begun.endswith("\n"):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Let go of a line that is not complete; waits for nothing."""
        text, self._begun = self._begun, ""
        if text:
            self._writer.put(self, text)

    @property
    def is_idle(self) -> bool:
        """Whether everything has left; what is soon repeated may be left out until then."""
        return self._writer.is_idle

    def isatty(self) -> bool:
        return self._is_terminal

    def fileno(self) -> int:
        if self._descriptor is None:
            raise io.UnsupportedOperation("fileno")
        return self._descriptor

    def writable(self) -> bool:
        return True

    def deliver(self, text: str) -> None:
        """In the writer's thread: write, or count."""
        failed, self._failed = self._failed, 0
        try:
            if failed:
                self._sink(self.tell_lost(failed))
            failed = 0
            self._sink(text)
        except Exception:  # whatever a disk or a log daemon says: there is nobody to tell
            self._failed += failed + _lines(text)


class Writer:
    """The thread that writes to one file, and the queue before it."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Output, str]] = deque()
        self._size = 0
        self.written = 0
        """Pieces that have left or were given up: what grows, moves."""
        self._changed = threading.Condition()  # on an RLock: a signal may write as well
        self._thread: threading.Thread | None = None
        self._resting = False
        _writers.append(self)

    def put(self, output: Output, text: str) -> None:
        """Queue a piece, or count its lines when there is no room.

        After that there has to be room for many lines again, or the count
        would be told between any two of them.
        """
        with self._changed:
            most = MOST_WAITING_CHARACTERS // (2 if output.without_room else 1)
            if self._size and self._size + len(text) > most:
                output.without_room += _lines(text)
                return
            self._queue(output, _untold(output) + text)
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="output", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending: nobody writes this any more
            self._waiting.clear()
            self._size = 0
        else:
            self._thread = thread

    def _queue(self, output: Output, text: str) -> None:
        self._waiting.append((output, text))
        self._size += len(text)

    @property
    def is_idle(self) -> bool:
        """Nothing waits, nothing is being written."""
        return not self._size

    def wait(self, seconds: float) -> None:
        """Until it is idle, or something has moved, or so long."""
        with self._changed:
            if not self.is_idle:
                self._changed.wait(seconds)

    def rest(self) -> None:
        """Before a fork: end the thread when it has nothing more to do, which is soon."""
        thread = self._thread
        if thread is not None:
            with self._changed:
                self._resting = True
                self._changed.notify_all()
            thread.join(FORK_SECONDS)

    def forget(self) -> None:
        """In a forked child: the thread, and what it has yet to write, are the parent's."""
        self._waiting.clear()
        self._size = 0
        self._changed = threading.Condition()
        self._thread = None
        self._resting = False

    def _run(self) -> None:
        if hasattr(signal, "SIGTTOU"):
            # a job in the background of a terminal with `stty tostop` would be stopped whole
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        while True:
            with self._changed:
                while not self._waiting:
                    if self._resting:
                        self._thread, self._resting = None, False
                        return
                    self._changed.wait()
                output, text = self._waiting.popleft()
            output.deliver(text)
            with self._changed:
                self._size -= len(text)
                self.written += 1
                if not self._waiting and output.without_room:
                    self._queue(output, _untold(output))
                self._changed.notify_all()
            del output  # nothing keeps a file open that its owner has let go


def _lines(text: str) -> int:
    return max(1, text.count("\n"))


def _untold(output: Output) -> str:
    lost, output.without_room = output.without_room, 0
    return output.tell_lost(lost) if lost else ""


_writers: list[Writer] = []


def settle() -> None:
    """Wait until what was said has left, but for no output that is stuck.

    Called at exit by itself; to be called before `os._exit`.
    """
    ends = time.monotonic() + SETTLING_SECONDS
    moved, stuck_at = -1, 0.0
    while busy := [writer for writer in _writers if not writer.is_idle]:
        now, written = time.monotonic(), sum(writer.written for writer in _writers)
        if written != moved:
            moved, stuck_at = written, now + STUCK_SECONDS
        left = min(ends, stuck_at) - now
        if left <= 0:
            return
        busy[0].wait(min(left, 0.1))


def _before_fork() -> None:
    for writer in _writers:
        writer.rest()


def _forked() -> None:
    for writer in _writers:
        writer.forget()


atexit.register(settle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_forked)
