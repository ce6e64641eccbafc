"""Calls into code that is not ours: protocols, producers, factories, acceptors, listeners.

What it raises is logged and ends what it was called for, a visitor at most: it
goes no further up, where it would end the main connection and with it everybody
else. That is what Twisted's reactor does for a TCP connection, and with
everything that can be raised: an application's `sys.exit()` in the middle of a
connection ends that connection there as well. Only a KeyboardInterrupt is the
user's own word, and passes.

A method may be a coroutine, or return a Deferred: then what it raises later is
treated in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

T = TypeVar("T")

Failed = Callable[[Failure], object]
"""Told what was raised, once it has been logged."""

log = Logger()


def call(what: str, failed: Failed | None, foreign: Callable[..., T], *arguments: Any) -> T | None:
    """Call it; None where it raised. ``what`` says for the log whose code this is."""
    try:
        returned = foreign(*arguments)
    except BaseException as error:
        raised(what, failed, error)
        return None
    if returned is not None:
        wait_for(what, failed, returned)
    return returned


def raised(what: str, failed: Failed | None, error: BaseException) -> None:
    """For places that are too busy for `call`: what an `except BaseException` there does."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    _report(what, failed, Failure(error))


def _report(what: str, failed: Failed | None, failure: Failure) -> None:
    log.failure("{what} raised an exception", failure, what=what)
    if failed is not None:
        failed(failure)


def wait_for(what: str, failed: Failed | None, returned: object) -> None:
    """Run it if it is a coroutine; what it or a Deferred raises in the end is treated as raised."""
    if isinstance(returned, Coroutine):
        returned = Deferred.fromCoroutine(returned)
    if isinstance(returned, Deferred):

        def late(failure: Failure) -> None:
            _report(what, failed, failure)

        returned.addErrback(late)


def in_turn(what: str, *steps: Callable[[], object]) -> None:
    """Take each of these steps, whatever the one before it raised."""
    for step in steps:
        call(what, None, step)
