"""`proxyservice expose` as a whole: from its start to its exit status, in a process of its own."""

from __future__ import annotations

from typing import Any, TextIO

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from zope.interface import implementer

from proxyservice.errors import ProxyServiceError
from proxyservice.node.announcements import Announcements
from proxyservice.node.connecting import Connecting
from proxyservice.node.exposure import ExposeSettings, Exposure
from proxyservice.node.finality import exit_status
from proxyservice.node.progress import REDRAW_SECONDS, LiveLine, Rates, progress_line
from proxyservice.output import Output
from proxyservice.process import on_first_signal


@inlineCallbacks
def expose(
    reactor: Any, settings: ExposeSettings, *, as_json: bool, stdout: TextIO, stderr: TextIO
) -> Any:
    """Expose until a signal, or until no server is left to try; fires with the exit status.

    Fails with StartError when it cannot begin.
    """
    ending: Deferred[int] = Deferred()

    def end(status: int) -> None:
        if not ending.called:
            ending.callback(status)

    def hopeless(error: ProxyServiceError) -> None:
        reactor.callLater(0, end, exit_status(error))

    line = LiveLine(stderr, lambda: not isinstance(stderr, Output) or stderr.is_idle)
    announcements = Announcements(
        stdout,
        line,
        as_json=as_json,
        leases=len(settings.targets),
        end=hopeless,
        clock=reactor,
        servers=len(settings.servers),
    )
    observers = [_OneLineLog(announcements)]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False, discardBuffer=True)
    impatient = is_terminal(stderr)
    exposure = Exposure(reactor, settings, announcements, impatient=impatient)
    exposure.startService()
    announcements.started(settings.key_file, exposure.fingerprint, new_key=exposure.key_is_new)
    on_first_signal(reactor, lambda: end(0))
    drawing = draw_progress(reactor, exposure, line, announcements.connection)
    status = yield ending
    drawing.stop()
    yield exposure.stopService()
    announcements.ended(exposure.traffic)
    return status


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody may be waiting there."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError, OSError):  # there is none, or it is closed
        return False


def draw_progress(
    reactor: Any, exposure: Exposure, line: LiveLine, connection: Connecting
) -> LoopingCall:
    """Keep the live line up to date, where there is one."""
    rates = Rates()

    def draw() -> None:
        traffic, now = exposure.traffic, reactor.seconds()
        passed = progress_line(traffic, *rates.update(now, traffic))
        line.draw(connection.line(now) or passed)

    drawing = LoopingCall(draw if line.shown else lambda: None)
    drawing.clock = reactor
    drawing.start(REDRAW_SECONDS, now=False)
    return drawing


@implementer(ILogObserver)
class _OneLineLog:
    """Twisted's own log: what goes wrong there is one line too."""

    def __init__(self, announcements: Announcements) -> None:
        self._announcements = announcements

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) < LogLevel.warn:
            return
        failure = event.get("log_failure") or event.get("failure")  # new style, old style
        why = f": {failure.type.__name__}: {failure.getErrorMessage()}" if failure else ""
        self._announcements.say((formatEvent(event) or "").partition("\n")[0] + why)
