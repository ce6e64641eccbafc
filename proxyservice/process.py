"""How our own processes begin and end: errors of the start in one line, signals without noise.

For processes that are ours alone; a library in somebody else's leaves signals be.
"""

from __future__ import annotations

import gc
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

import twisted
from proxyservice import __version__
from proxyservice.errors import ProxyServiceError
from proxyservice.net.descriptor_limit import raise_descriptor_limit
from proxyservice.net.lean_loop import install_lean_loop
from proxyservice.net.names import DaemonResolver
from proxyservice.standard_streams import (
    free_standard_streams,
    open_standard_descriptors,
    unblocked,
)
from proxyservice.twistd_log import log_observer

START_FAILED_STATUS = 1

YOUNG_OBJECTS = 20_000
"""Objects made until the collector looks at them: some hundred visitors' worth, 2 MiB."""

log = Logger()


def tell_version(command: str) -> None:
    """Say in the log what this is. Called while twistd builds the service, it is the first line."""
    log.info(
        "{command}, version {version}, on {python} {python_version} with Twisted {twisted}",
        command=command,
        version=__version__,
        python=platform.python_implementation(),
        python_version=platform.python_version(),
        twisted=twisted.__version__,
    )


def prepare_reactor(reactor: Any, *, busy_poll: bool = True) -> None:
    """Give a reactor that is ours a clock that never jumps, and a lean loop; before any timer.

    The process may open as many descriptors as the system allows it. Twisted's clock is the
    wall's: a step of it would fire or freeze every timer. Its resolver is a pool of threads
    that the process's end would wait for.
    ``busy_poll`` as in `install_lean_loop`.
    """
    vars(reactor)["seconds"] = time.monotonic
    raise_descriptor_limit()
    reactor.installNameResolver(DaemonResolver(reactor))
    install_lean_loop(reactor, busy_poll=busy_poll)
    reactor.callWhenRunning(_spare_the_collector)


def _spare_the_collector() -> None:
    """Have the cyclic collector look at what is new, seldom, and never at what was imported.

    A short visitor leaves some cycles behind; with Python's defaults each
    hundred of them cost a look at all that lives. PyPy's collector has generations anyway.
    """
    if not hasattr(gc, "freeze"):
        return
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 100)


def on_first_signal(reactor: Any, stop: Callable[[], None]) -> None:
    """Call ``stop()`` on SIGTERM or SIGINT; the second one ends the process at once.

    To be called when the reactor has installed its own handlers, which would
    make a clean stop look like a death by signal.
    """

    def received(number: int, frame: object) -> None:
        for again in (signal.SIGTERM, signal.SIGINT):
            signal.signal(again, signal.SIG_DFL)
        reactor.callFromThread(stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, received)


def on_hangup(reactor: Any, reload: Callable[[], None]) -> None:
    """Call ``reload()`` on SIGHUP: files were changed."""
    signal.signal(signal.SIGHUP, lambda number, frame: reactor.callFromThread(reload))


def exit_cleanly_on_signals(reactor: Any) -> None:
    """Stop the reactor on SIGTERM and SIGINT, with exit status 0."""

    def stop() -> None:
        if reactor.running:
            reactor.stop()

    on_first_signal(reactor, stop)


class ExplainedStart(Service):
    """A service under twistd whose failing start is one line and exit status 1, no traceback.

    ``twistd`` are the options before the plugin's name. The log goes where
    they say, and neither it nor stderr ever makes the service wait.
    """

    def __init__(self, inner: Service, command: str, twistd: Mapping[str, Any]) -> None:
        self._inner = inner
        self._command = command
        self._twistd = twistd

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and be its log, unless `--logger` names another."""
        if isinstance(parent, Componentized):
            open_standard_descriptors()
            free_standard_streams()
            if not self._twistd.get("logger"):
                try:
                    parent.setComponent(ILogObserver, log_observer(self._twistd))
                except ProxyServiceError as error:
                    raise SystemExit(self._explain(error)) from None
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Start the service inside; what it cannot do is told on the real stderr."""
        super().startService()
        try:
            self._inner.startService()
        except ProxyServiceError as error:
            pidfile = self._twistd.get("pidfile")
            if pidfile:
                Path(pidfile).unlink(missing_ok=True)
            raise SystemExit(self._explain(error)) from None

    def _explain(self, error: ProxyServiceError) -> int:
        # twistd has turned sys.stderr into its log
        print(f"{self._command}: {error}", file=unblocked(sys.__stderr__))
        return START_FAILED_STATUS

    def stopService(self) -> Any:
        """Stop the service inside."""
        super().stopService()
        return self._inner.stopService()
