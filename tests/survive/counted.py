"""`twistd` that says what it has, when asked by SIGUSR2: a line of JSON in the file `counts`."""

from __future__ import annotations

import gc
import json
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.scripts.twistd import run

from proxyservice.server.factory import MainFactory

_made: list[MainFactory] = []


class NotedFactory:
    """In front of `MainFactory.__init__`, to know the one that was made."""

    init = MainFactory.__init__

    @staticmethod
    def noting(factory: MainFactory, *args: Any, **options: Any) -> None:
        NotedFactory.init(factory, *args, **options)
        _made.append(factory)


def counts() -> dict[str, int]:
    """Of the one service in this process."""
    from twisted.internet import reactor as running

    reactor: Any = running
    gc.collect()
    (factory,) = _made
    return {
        "timers": len(reactor.getDelayedCalls()),
        "selectables": len(reactor.getReaders()) + len(reactor.getWriters()),
        "deadlines": len(factory.deadlines),
        "main connections": len(factory.connections),
        "visitors": factory.visitors,
        "waiting": factory.waiting_room.count,
        "memory holders": len(factory.memory),
        "held bytes": factory.memory.held_bytes,
        "blocks": getattr(sys, "getallocatedblocks", lambda: 0)(),  # PyPy does not count
    }


def _tell() -> None:
    beside = Path("counts.new")
    beside.write_text(json.dumps(counts()))
    beside.rename("counts")


def _asked(*_: object) -> None:
    from twisted.internet import reactor

    reactor.callFromThread(_tell)  # type: ignore[attr-defined]  # between two events


if __name__ == "__main__":
    MainFactory.__init__ = NotedFactory.noting  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR2, _asked)
    run()
