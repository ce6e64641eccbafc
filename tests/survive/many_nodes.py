"""Many nodes of the library in one process, each with a key and pins of its own.

    python -m tests.survive.many_nodes HOST:PORT TARGET DIRECTORY COUNT

One line is written for each address that a node gets: number, address, generation.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from proxyservice.errors import ProxyServiceError
from proxyservice.node.events import NodeEvents
from proxyservice.node.exposure import Exposure, read_settings
from proxyservice.process import exit_cleanly_on_signals, prepare_reactor


class Said(NodeEvents):
    """Of one node."""

    def __init__(self, number: int) -> None:
        self.number = number

    def addressed(self, lease: Any, *, changed: bool) -> None:
        print(self.number, lease.address, lease.generation, flush=True)

    def gave_up(self, error: ProxyServiceError) -> None:
        print(self.number, "gave up:", error, flush=True)


def main(via: str, target: str, directory: str, count: str) -> None:
    from twisted.internet import reactor as installed

    reactor: Any = installed
    prepare_reactor(reactor, busy_poll=False)
    for number in range(int(count)):
        settings = read_settings([target], [via], state_dir=str(Path(directory, str(number))))
        exposure = Exposure(reactor, settings, Said(number))
        reactor.callWhenRunning(exposure.startService)
    reactor.callWhenRunning(exit_cleanly_on_signals, reactor)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
