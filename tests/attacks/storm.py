"""A program that attacks a service from one source: `storm.py NAME PORT SECONDS SOURCE`.

Each attack is a loop that is bounded in time, and in connections that are open at once. It goes on
whatever the service answers, for an attacker would: what is refused is tried again.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import encode_frame
from tests.attacks.kit import (
    NET,
    ProvedNode,
    announcement,
    application_frame,
    proxy_request,
    receive_message,
    sender,
)
from tests.attacks.running import HOST
from tests.attacks.work import (
    Input,
    clear_codes,
    echoes,
    empty_members,
    empty_senders,
    releases,
)
from tests.conftest import VECTORS  # noqa: F401 - the kit's, loaded before the clock runs

GZIP = 2
POURED_AT_ONCE = 12
OPEN_AT_ONCE = 128
"""Descriptors of the attacker; a service must not need him to be short of them."""


class Attacker:
    """Connects from one source; is itself the kit's `Reachable`."""

    def __init__(self, port: int, source: str, seconds: float) -> None:
        self.port, self.source = port, source
        self._ends = time.monotonic() + seconds

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self._ends

    def connect(self, port: int = 0, *, source: str = "") -> socket.socket:
        peer = socket.create_connection((HOST, port or self.port), 2.0, (source or self.source, 0))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return peer

    def tries(self) -> Iterator[socket.socket]:
        """One connection after the other, of which the latest ones stay open."""
        kept: list[socket.socket] = []
        try:
            while self.goes_on:
                try:
                    kept.append(self.connect())
                except OSError:
                    time.sleep(0.001)  # a pace: its share is used up, and it tries again
                    continue
                if len(kept) > OPEN_AT_ONCE:
                    kept.pop(0).close()
                yield kept[-1]
        finally:
            for peer in kept:
                peer.close()


def pour(attacker: Attacker, inputs: Callable[[int], Input]) -> None:
    """Say something again and again on many connections at once, reading nothing.

    Who ends one has a new one; who takes nothing of one for a while, too.
    """
    pouring: dict[socket.socket, tuple[memoryview, float]] = {}
    for number, peer in enumerate(attacker.tries()):
        first, again = inputs(number)
        data = memoryview(again * max(1, (1 << 16) // len(again)))
        with suppress(OSError):
            peer.settimeout(0.2)
            peer.sendall(first)
            peer.setblocking(False)
            pouring[peer] = data, time.monotonic()
        while attacker.goes_on and len(pouring) >= POURED_AT_ONCE:
            _pour_once(pouring)


def _pour_once(pouring: dict[socket.socket, tuple[memoryview, float]]) -> None:
    for peer in [peer for peer in pouring if peer.fileno() < 0]:
        del pouring[peer]
    _, ready, _ = select.select([], list(pouring), [], 0.05)
    now = time.monotonic()
    for peer, (data, since) in list(pouring.items()):
        try:
            if peer in ready:
                sent = peer.send(data)
                pouring[peer] = _rotated(data, sent), now
                continue
        except BlockingIOError:
            continue
        except OSError:
            since = 0.0
        if now - since > 3:
            del pouring[peer]
            peer.close()


def _rotated(data: memoryview, sent: int) -> memoryview:
    """What follows, when so much of it went out."""
    return data if sent == len(data) else memoryview(bytes(data[sent:]) + bytes(data[:sent]))


def _compressed(message: pb.Message) -> bytes:
    import gzip

    return encode_frame(NET, gzip.compress(message.SerializeToString()), flag=1, algorithm=GZIP)


def large_keys(attacker: Attacker) -> None:
    """Claimed identities of 250 KiB that fit into a KiB on the wire."""
    for number, peer in enumerate(attacker.tries()):
        key = number.to_bytes(8, "big") + bytes(250 * 1024)
        who = pb.ID(net_key=key, address="tcp://127.0.0.1:1", connection_id=key[:8])
        asks = pb.Message(opcode=Opcode.PROXY_REQUEST, netID=NET, sender=who)
        with suppress(OSError):
            peer.sendall(_compressed(asks))


def inflated_answers(attacker: Attacker) -> None:
    """Metrics and Releases that inflate a thousand times, and answers that nobody reads."""
    metric = pb.MetricRequest(raw_data=bytes(200 * 1024)).SerializeToString()
    release = pb.Release(origin_address="x" * 200 * 1024).SerializeToString()
    asks = b"".join(
        _compressed(
            pb.Message(opcode=opcode, netID=NET, sender=sender(1), message=payload, request_nonce=7)
        )
        for opcode, payload in ((Opcode.METRIC_REQUEST, metric), (Opcode.RELEASE, release))
    )
    pour(attacker, lambda number: (_let_in(number), asks))


def _let_in(number: int) -> bytes:
    """What every other one says first, to be known."""
    return proxy_request(number % 8) if number % 2 else b""


def empty_fields(attacker: Attacker) -> None:
    """Frames of 316 bytes that inflate to 127,000 empty fields."""
    frame = encode_frame(NET, bomb_of(b"\x7a\x00" * 127_000), flag=1, algorithm=GZIP)
    pour(attacker, lambda number: (_let_in(number), frame))


def bomb_of(body: bytes) -> bytes:
    import gzip

    return gzip.compress(body, 9)


def cheap_to_send(attacker: Attacker) -> None:
    """LZW of nothing but CLEAR, gzip members of nothing, and what is to be echoed or released.

    Half of them before it is known who sends them.
    """
    inputs = [
        make(number)
        for number, make in enumerate((clear_codes, empty_members, echoes, releases, empty_senders))
    ]

    def said(number: int) -> Input:
        first, again = inputs[number % len(inputs)]
        return (first or proxy_request(number % 8)) if number % 2 else b"", again

    pour(attacker, said)


def tiny_requests(attacker: Attacker) -> None:
    """Pipelined requests, as small as they can be, from a node that was let in."""

    def said(number: int) -> Input:
        who = pb.ID(net_key=bytes([number % 8]), address="a")
        small = pb.Message(opcode=Opcode.PROXY_REQUEST, netID=NET, sender=who).SerializeToString()
        return b"", encode_frame(NET, small)

    pour(attacker, said)


def many_fields_of_a_visitor(attacker: Attacker) -> None:
    """Frames of 4 KiB of two-byte fields, through the attacker's own proxy port."""
    good = application_frame(b"")[10:]
    frame = encode_frame(NET, good + b"\x7a\x00" * 2048)
    for number, node in enumerate(attacker.tries()):
        with suppress(OSError, ConnectionError, AssertionError), ExitStack() as stack:
            node.sendall(proxy_request(number % 8))
            node.settimeout(2.0)
            answer = receive_message(node)
            address = pb.ProxyResponse.FromString(answer.message).proxy_address
            port = int(address.rpartition(":")[2])
            visitors = [stack.enter_context(attacker.connect(port)) for _ in range(8)]
            while attacker.goes_on:
                for visitor in visitors:
                    visitor.sendall(frame * 16)
                node.setblocking(False)
                with suppress(BlockingIOError):
                    while node.recv(1 << 20):
                        pass
                node.setblocking(True)


def lease_and_release(attacker: Attacker) -> None:
    """A proved node that asks for an address and gives it back, as fast as it is answered."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    while attacker.goes_on:
        with suppress(OSError, ConnectionError, AssertionError, ValueError):
            node = ProvedNode(attacker, Ed25519PrivateKey.generate(), streams=True)
            with node.connection as peer:
                peer.settimeout(2.0)
                for nonce in range(2, 100_000):
                    if not attacker.goes_on:
                        return
                    release = encode_message(
                        NET, Opcode.RELEASE, pb.Release(), sender=node.sender, request_nonce=nonce
                    )
                    peer.sendall(release + node._request("", nonce + 100_000))
                    receive_message(peer)
                    receive_message(peer)


def unfinished_frames(attacker: Attacker) -> None:
    """Frames of 64 MiB of which the end never comes, at the attacker's own proxy port."""
    start = announcement(64 << 20, application_frame(b"")[10:]) + bytes(512 * 1024)
    node, port = None, 0
    while attacker.goes_on and not port:
        with suppress(OSError, ConnectionError, AssertionError, ValueError):
            node = attacker.connect()
            node.sendall(proxy_request(3))
            address = pb.ProxyResponse.FromString(receive_message(node).message).proxy_address
            port = int(address.rpartition(":")[2])
    kept: list[socket.socket] = []
    while attacker.goes_on:
        with suppress(OSError):
            visitor = attacker.connect(port)
            visitor.settimeout(0.2)
            kept.append(visitor)
            visitor.sendall(start)
        if len(kept) > OPEN_AT_ONCE:
            kept.pop(0).close()
    for visitor in kept:
        visitor.close()
    if node is not None:
        node.close()


def connections(attacker: Attacker) -> None:
    """As many new connections a second as there can be, none of which says anything."""
    for _ in attacker.tries():
        pass


ATTACKS: dict[str, Callable[[Attacker], None]] = {
    attack.__name__: attack
    for attack in (
        large_keys,
        inflated_answers,
        empty_fields,
        cheap_to_send,
        tiny_requests,
        many_fields_of_a_visitor,
        lease_and_release,
        unfinished_frames,
        connections,
    )
}


def main() -> None:
    name, port, seconds, source = sys.argv[1:]
    ATTACKS[name](Attacker(int(port), source, float(seconds)))


if __name__ == "__main__":
    main()
