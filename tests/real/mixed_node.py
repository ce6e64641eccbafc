"""A library node with a message and a stream lease on one main connection: `mixed_node.py VIA`.

Prints both addresses, then a line for each message: its opcode and the hash of its payload.
"""

from __future__ import annotations

import hashlib
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import Factory
from twisted.protocols.wire import Echo

from proxyservice.node.identity import NodeIdentity
from proxyservice.node.messages import Received
from proxyservice.node.node import Node
from proxyservice.node.streams import FactoryAcceptor
from proxyservice.wire import proxyservice_pb2 as pb


def main() -> None:
    node = Node([sys.argv[1]], identity=NodeIdentity(key=Ed25519PrivateKey.generate()))
    messages = node.lease("messages")
    acceptor = FactoryAcceptor(Factory.forProtocol(Echo), reactor)
    streams = node.lease("streams", mode=pb.MODE_STREAMS, acceptor=acceptor)

    @node.on_message
    def told(message: Received) -> None:
        print(message.opcode, hashlib.sha256(message.payload).hexdigest(), flush=True)

    addressed = gatherResults([messages.when_addressed(), streams.when_addressed()])
    addressed.addCallback(lambda both: print("reached at", *both, flush=True))
    node.startService()
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
