"""stdout and stderr of our own processes: closed, full, stopped, or without a reader."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO, cast

from proxyservice.output import Output, Sink, Writer, lines_lost

_of_files: dict[tuple[int, int], Writer] = {}


def unblocked(stream: TextIO | None, *, tell_lost: Callable[[int], str] = lines_lost) -> TextIO:
    """The stream, so that writing to it never waits.

    A stream in memory is returned as it is; one that is closed goes nowhere.
    Two streams to the same terminal, pipe or file keep their order.
    """
    if stream is None or isinstance(stream, Output):
        return stream or _nowhere()
    try:
        descriptor = stream.fileno()
    except (io.UnsupportedOperation, AttributeError):
        return stream
    except (OSError, ValueError):
        return _nowhere()
    try:
        found = os.fstat(descriptor)
    except OSError:
        return _nowhere()
    writer = _of_files.get((found.st_dev, found.st_ino)) or Writer()
    _of_files[found.st_dev, found.st_ino] = writer
    with suppress(OSError, ValueError):
        stream.flush()  # nothing, as a rule; from here on nothing passes through its own buffer
    output = Output(_sink(stream, descriptor), writer, tell_lost=tell_lost, descriptor=descriptor)
    return cast("TextIO", output)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _sink(stream: TextIO, descriptor: int) -> Sink:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if os.name == "nt":
        # a console there is not written in bytes of the stream's encoding
        def say(text: str) -> None:
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()

        return say
    # not through the stream: a thread that waits in there would hold its lock at exit
    return _Descriptor(descriptor, encoding)


class _Descriptor:
    """A sink that writes whole lines to a file descriptor, or says so with an OSError."""

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._torn = False  # a full disk took the beginning of a line

    def __call__(self, text: str) -> None:
        data = (("\n" if self._torn else "") + text).encode(self._encoding, "backslashreplace")
        left = memoryview(data)
        try:
            while left:
                left = self._written(left)
        finally:
            self._torn = bool(left) and (self._torn or len(left) < len(data))

    def _written(self, data: memoryview) -> memoryview:
        try:
            return data[os.write(self._descriptor, data) :]
        except BlockingIOError:  # whoever shares the file has made it non-blocking
            waiting = select.poll()
            waiting.register(self._descriptor, select.POLLOUT)
            waiting.poll()
            return data


def free_standard_streams(*, tell_lost: Callable[[int], str] = lines_lost) -> None:
    """From here on nothing that this process says makes it wait; ``tell_lost`` is stdout's."""
    sys.stdout = unblocked(sys.stdout, tell_lost=tell_lost)
    sys.stderr = unblocked(sys.stderr)


def open_standard_descriptors() -> None:
    """Give 0, 1 and 2 a place to go when the process began without.

    Else the next file or socket that is opened gets the number, and what is
    meant for stderr is written there.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
