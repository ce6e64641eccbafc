"""An echo server at a proxy address, with no local port: `python echo.py HOST[:PORT]`."""

from __future__ import annotations

import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.wire import Echo


async def main(reactor: object, relay: str) -> None:
    endpoint = serverFromString(reactor, f"proxied:{relay}:origin=echo")
    port = await endpoint.listen(Factory.forProtocol(Echo))
    print("echoing at {0.host}:{0.port}".format(port.getHost()), flush=True)
    await Deferred()  # until interrupted


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, sys.argv[1])))
