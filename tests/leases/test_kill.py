"""kill -9: a process that leases as fast as it can dies at some moment, and what it had
acknowledged is there. The real reactor, the real thread, the real file.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxyservice.leases.lease import Owner
from proxyservice.leases.store import LeaseStore, sqlite_url
from tests.leases.joined import proved

KILLS = 200 if os.environ.get("PROXYSERVICE_FULL") else 8

PROGRAM = """
import os
import sys
from twisted.internet import reactor
from proxyservice.leases.lease import LeaseTimes
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.leases.store import LeaseStore
from tests.leases.harness import Node, Sockets
from tests.leases.joined import proved

registry = LeaseRegistry(
    reactor, LeaseStore(sys.argv[1], 1), range(1, 20_001), LeaseTimes(), Sockets()
)
registry.startService()

def acknowledged(grant):
    print(grant.lease.owner.origin, grant.lease.port, grant.generation, flush=True)

def ask(number):
    owner = proved(0, str(number % 20_000))
    acquired = registry.acquire(owner, Node(), "192.0.2.1")
    acquired.addCallback(acknowledged).addCallback(lambda _: ask(number + OUTSTANDING))

def storm():
    for number in range(OUTSTANDING):
        ask(int(sys.argv[2]) + number)

OUTSTANDING = 40
reactor.callLater(60, os._exit, 1)  # whatever became of the test, this process ends
reactor.callWhenRunning(storm)
reactor.run()
"""


@pytest.mark.process
@pytest.mark.heavy
def test_t23_every_acknowledged_lease_survives_kill_9(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "leases.sqlite")
    acknowledged: dict[Owner, int] = {}
    generations = [0]
    pick = random.Random(23)
    for _ in range(KILLS):
        lines = killed_after(url, pick.randrange(20_000), pick.randrange(1, 100))
        for origin, port, _ in lines:
            acknowledged[proved(0, origin)] = int(port)
        assert int(lines[0][2]) > max(generations), "generations rise across crashes"
        generations += [int(generation) for _, _, generation in lines]
        store = LeaseStore(url, 1)
        stored = {row.owner: row.port for row in store.open(0.0).rows}
        store.close()
        assert stored.items() >= acknowledged.items()
    assert len(acknowledged) >= KILLS


def killed_after(url: str, first: int, lines: int) -> list[list[str]]:
    """What it said before it died: so many lines, and those of the moment that it takes."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, str(first)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    return [line.split() for line in said if line.endswith("\n")]
