"""Two nodes exchange a message through a relay: `python two_nodes.py HOST[:PORT]`."""

from __future__ import annotations

import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from proxyservice.node.messages import Received
from proxyservice.node.node import Node

HELLO = 1000  # application opcodes begin here


async def main(reactor: object, server: str) -> None:
    alice, bob = (Node([server], reactor=reactor) for _ in range(2))
    answered: Deferred[Received] = Deferred()

    @bob.on_message
    def greeted(message: Received) -> None:
        print(f"bob got {message.payload!r} from {message.reply_address}")
        bob.send(message.reply_address, HELLO, b"hello, alice", reply=True)

    alice.on_message(answered.callback)
    alice.startService()
    bob.startService()
    await alice.when_addressed()
    await alice.send(await bob.when_addressed(), HELLO, b"hello, bob")
    print(f"alice got {(await answered).payload!r}")
    await alice.stopService()
    await bob.stopService()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, sys.argv[1])))
