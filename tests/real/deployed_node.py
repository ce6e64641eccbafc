"""A message node written by hand that behaves as deployed ones do, in its faults too.

    deployed_node.py PORT NAME DIRECTORY

leases an address, writes it to DIRECTORY/NAME, finds its peers' addresses
there, and exchanges messages with all of them for ever. It asks for Pongs and
gives a peer up after 30 s without one; it dials what a message names as its
sender; and when it cannot reach a peer again that it knew, it closes its own
main connection. What happened to it is in DIRECTORY/NAME.json. SIGUSR1 makes
it break: it says something bad on its main connection and never comes back,
while its connections to its peers go on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.real.independent_node import NETWORK_ID, SERVER_NET_KEY, data, decode, encode, number

KEEPALIVE, KEEPALIVE_RESPONSE, PROXY_RESPONSE, PING, PONG, PROXY_REQUEST = 2, 3, 9, 10, 11, 15
ASK, ANSWER = 1000, 1001
KEEPALIVE_SECONDS = 3.0
TALK_SECONDS = 0.2
COMES_BACK_SECONDS = 4.0
PONG_SECONDS = 30.0
DIAL_SECONDS = 5.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Peer:
    """The connection to a peer's proxy address: nothing ever comes back on it."""

    def __init__(self, streams: Streams) -> None:
        self.reader, self.writer = streams
        self.sent = 0
        self.pinged_at = time.monotonic()
        self.pong = False


class Node:
    def __init__(self, port: int, name: str, directory: Path) -> None:
        self.port, self.name, self.directory = port, name, directory
        self.net_key = hashlib.sha256(name.encode()).digest()
        self.connection_id = hashlib.blake2b(self.net_key + b"first", digest_size=32).digest()
        self.address = "tcp://127.0.0.1:1"
        self.main: asyncio.StreamWriter | None = None
        self.main_sent = 0
        self.broken = False
        self.peers: dict[str, Peer] = {}
        self.known: set[str] = set()  # peers that were reached once
        self.dialling: dict[str, asyncio.Task[bool]] = {}
        self.events: list[str] = []
        self.answers: dict[str, int] = {}

    # ------------------------------------------------------------------ frames

    def frame(self, opcode: int, nonce: int, *, request: int = 0, reply: bool = False) -> bytes:
        node_id = hashlib.blake2b(self.net_key, digest_size=32).digest()
        sender = encode(
            {1: self.net_key, 2: self.address.encode(), 3: node_id, 4: self.connection_id}
        )
        body = encode({2: sender, 4: request, 5: nonce, 6: int(reply), 7: opcode, 8: NETWORK_ID})
        return struct.pack(">IBBI", NETWORK_ID, 0, 2, len(body)) + body

    def tell(self, address: str, opcode: int, *, request: int = 0, reply: bool = False) -> None:
        peer = self.peers.get(address)
        if peer is not None:
            peer.sent += 1
            peer.writer.write(self.frame(opcode, peer.sent, request=request, reply=reply))

    # --------------------------------------------------------- main connection

    async def stay_connected(self) -> None:
        while not self.broken:
            try:
                reader, self.main = await asyncio.open_connection("127.0.0.1", self.port)
                self.main.write(self.frame(PROXY_REQUEST, 1))
                self.main_sent = 1
                await self.listen(reader)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.events.append(f"main lost: {error!r}")
            self.main = None
            await asyncio.sleep(COMES_BACK_SECONDS)

    async def listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            _, flag, _, length = struct.unpack(">IBBI", await reader.readexactly(10))
            assert flag != 1, "nobody here compresses"
            message = decode(await reader.readexactly(length))
            sender = decode(data(message, 2))
            if data(sender, 1) != SERVER_NET_KEY:
                await self.heard(message, data(sender, 2).decode())
            elif number(message, 7) == PROXY_RESPONSE:
                proxy = data(decode(data(message, 1)), 2).decode()
                self.address = f"tcp://{proxy}"
                (self.directory / self.name).write_text(proxy)

    async def heard(self, message: dict[int, int | bytes], sender_address: str) -> None:
        """A peer's message: first of all there must be a connection to it."""
        peer = sender_address.removeprefix("tcp://")
        if not await self.reach(peer):
            self.close_main(f"cannot answer {peer}")
            return
        opcode, request = number(message, 7), number(message, 4)
        if opcode == PING:
            self.tell(peer, PONG)
        elif opcode == KEEPALIVE:
            self.tell(peer, KEEPALIVE_RESPONSE)
        elif opcode == ASK:
            self.tell(peer, ANSWER, request=request, reply=True)
        elif opcode == ANSWER:
            self.answers[peer] = self.answers.get(peer, 0) + 1
        elif opcode == PONG:
            self.peers[peer].pong = True

    def close_main(self, why: str) -> None:
        self.events.append(f"closes its main connection: {why}")
        if self.main is not None:
            self.main.transport.abort()

    # ------------------------------------------------------------------- peers

    async def reach(self, peer: str) -> bool:
        """Be connected to it; False when it cannot be dialled."""
        if peer in self.peers:
            return True
        if peer not in self.dialling:
            self.dialling[peer] = asyncio.create_task(self.dial(peer))
        return await self.dialling[peer]

    async def dial(self, peer: str) -> bool:
        host, _, port = peer.rpartition(":")
        try:
            opening = asyncio.open_connection(host, int(port))
            self.peers[peer] = Peer(await asyncio.wait_for(opening, DIAL_SECONDS))
        except (OSError, TimeoutError, asyncio.TimeoutError):
            return False
        finally:
            del self.dialling[peer]
        self.known.add(peer)
        self.tell(peer, PING)
        asyncio.create_task(self.watch(peer, self.peers[peer]))  # noqa: RUF006 - until it ends
        return True

    async def watch(self, peer: str, connection: Peer) -> None:
        """Redial a connection that was lost; the deployed library takes that hard."""
        with suppress(OSError):
            await connection.reader.read(1)
        if self.peers.get(peer) is connection:
            del self.peers[peer]
            self.events.append(f"peer lost: {peer}")
            if not self.broken and not await self.reach(peer):
                self.close_main(f"cannot reach {peer} again")

    def others(self) -> list[str]:
        files = [one for one in self.directory.iterdir() if not one.suffix]
        return [one.read_text() for one in files if one.name != self.name]

    async def talk(self) -> None:
        """Ask every peer again and again, keep all connections alive, write down how it goes."""
        rounds, alive_at = 0, 0.0
        while True:
            rounds += 1
            if self.address != "tcp://127.0.0.1:1":
                for peer in self.others():
                    if peer in self.peers or (peer and await self.reach(peer)):
                        self.tell(peer, ASK, request=rounds)
            if time.monotonic() - alive_at > KEEPALIVE_SECONDS:
                alive_at = time.monotonic()
                self.keep_alive()
            self.write_down()
            await asyncio.sleep(TALK_SECONDS)

    def keep_alive(self) -> None:
        if self.main is not None and not self.broken:
            self.main_sent += 1
            self.main.write(self.frame(KEEPALIVE, self.main_sent))
        for peer, connection in list(self.peers.items()):
            if not connection.pong and time.monotonic() - connection.pinged_at > PONG_SECONDS:
                self.events.append(f"gave up {peer}: no Pong")
                del self.peers[peer]
                connection.writer.close()
            else:
                self.tell(peer, KEEPALIVE)

    def write_down(self) -> None:
        seen = {"events": self.events, "answers": self.answers, "address": self.address}
        path = self.directory / f"{self.name}.json"
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(seen))
        os.replace(draft, path)

    def break_main(self) -> None:
        self.broken = True
        if self.main is not None:
            self.main.write(b"\0" * 10)


async def run() -> None:
    port, name, directory = sys.argv[1:]
    node = Node(int(port), name, Path(directory))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, node.break_main)
    await asyncio.gather(node.stay_connected(), node.talk())


if __name__ == "__main__":
    asyncio.run(run())
