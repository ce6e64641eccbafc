"""twistd's log, where its options say, by an observer that never makes the reactor wait.

The same lines in the same places as twistd's own observers: stdout, a file
that rotates, syslog. What a peer may have put into a line cannot begin another
one, nor steer a terminal that shows the log.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import Any

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    Logger,
    formatEventAsClassicLogText,
)
from twisted.python.logfile import LogFile

from proxyservice.errors import StartError
from proxyservice.output import Output
from proxyservice.standard_streams import unblocked
from proxyservice.text import without_controls

DEFAULT_FILE = "twistd.log"
"""twistd's own, of a daemon that is not told another."""

log = Logger()


def log_observer(options: Mapping[str, Any]) -> Any:
    """What twistd's ``options`` ask for: `--syslog`, `--logfile`, else stdout or `twistd.log`.

    Raises StartError for a file that cannot be opened.
    """
    if options.get("syslog"):
        return _syslog_observer(str(options.get("prefix") or ""))
    in_front = bool(options.get("nodaemon"))
    name = options.get("logfile") or ("-" if in_front else DEFAULT_FILE)
    if name != "-":
        return FileLogObserver(_file_output(str(name)), _text)
    if not in_front:
        raise StartError("a daemon cannot log to stdout; name a file with --logfile")
    return FileLogObserver(unblocked(sys.stdout), _text)


def _text(event: LogEvent) -> str | None:
    text = formatEventAsClassicLogText(event)
    return None if text is None else without_controls(text)


def _file_output(name: str) -> Any:
    try:
        file = LogFile.fromFullPath(name)
    except OSError as error:
        raise StartError(f"cannot write the log file {name}: {error.strerror}") from None
    rotate: list[bool] = []

    def write(text: str) -> None:
        if rotate:
            rotate.clear()
            file.rotate()
        file.write(text.encode("utf-8", "backslashreplace"))

    if hasattr(signal, "SIGUSR1") and not signal.getsignal(signal.SIGUSR1):

        def rotation_wanted(number: int, frame: object) -> None:
            from twisted.internet import reactor

            rotate.append(True)  # by the thread that writes: the disk may be slow
            said: Any = reactor
            said.callFromThread(log.info, "the log file was rotated, as SIGUSR1 asks")

        signal.signal(signal.SIGUSR1, rotation_wanted)
    return Output(write)


def _syslog_observer(prefix: str) -> ILogObserver:
    from twisted.python import syslog

    say = syslog.SyslogObserver.syslog

    def write(text: str) -> None:
        for line in text.splitlines():
            priority, _, rest = line.partition(" ")
            say(int(priority), rest)

    output = Output(write)

    class Observer(syslog.SyslogObserver):
        """Twisted's, with our queue where it calls the C library."""

        def syslog(self, priority: int, line: str) -> None:
            output.write(f"{priority} {without_controls(line)}\n")

    return LegacyLogObserverWrapper(Observer(prefix).emit)  # type: ignore[arg-type]  # a callable
