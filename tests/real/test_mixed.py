"""Messages and streams on one main connection; a node of part A beside it notices nothing."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

import pytest

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.conftest import VECTORS
from tests.node.processes import Relay, visit
from tests.real.conftest import Run, socket_address

pytestmark = pytest.mark.process
MESSAGES = 400
NODE = Path(__file__).with_name("mixed_node.py")


def raw(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


def frame(payload: bytes) -> bytes:
    sender = pb.ID(net_key=b"v" * 32, address="tcp://127.0.0.1:9")
    return encode_message(DEFAULT_NETWORK_ID, 1000 + len(payload) % 7, payload, sender=sender)


class PartA:
    """A node of part A that keeps every byte it is sent."""

    def __init__(self, relay: Relay) -> None:
        self.socket = socket.create_connection(("127.0.0.1", relay.port), timeout=15)
        self.socket.sendall(raw("tcp_proxy_request_unsigned"))
        (size,) = struct.unpack(">6xI", self.receive(10))
        self.answer = pb.Message.FromString(self.receive(size))
        response = pb.ProxyResponse.FromString(self.answer.message)
        self.address = response.proxy_address

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the server has closed the connection"
            data += more
        return data

    def expected_answer(self, relay: Relay) -> pb.Message:
        """The golden answer, but for the two addresses that differ from run to run."""
        golden = pb.Message.FromString(raw("tcp_proxy_response")[10:])
        golden.message = pb.ProxyResponse(proxy_address=self.address).SerializeToString()
        golden.sender.address = f"tcp://{relay.via}"
        return golden


def test_messages_and_streams_share_a_connection_and_part_a_sees_nothing_new(
    relay: Relay, run: Run
) -> None:
    old = PartA(relay)
    node = run(sys.executable, NODE, relay.via)
    messages, streams = node.wait_for(r"reached at (\S+) (\S+)").groups()

    generator = random.Random(7)
    payloads = [generator.randbytes(generator.choice((0, 20, 5000, 300_000))) for _ in range(60)]
    payloads = [payloads[n % 60] + b"%d" % n for n in range(MESSAGES)]
    echoed: dict[int, bool] = {}

    def stream(number: int) -> None:
        said = os.urandom(4 << 20)
        echoed[number] = visit(streams, said) == said

    visitors = [threading.Thread(target=stream, args=(number,)) for number in range(6)]
    for visitor in visitors:
        visitor.start()
    # Frames of golden vectors to the old node, and a keepalive of its own, meanwhile.
    with (
        socket.create_connection(socket_address(messages), timeout=15) as sender,
        socket.create_connection(socket_address(old.address), timeout=15) as peer,
    ):
        relayed = [raw(name) for name in ("tcp_ping", "tcp_app_1000_signed", "tcp_app_1000_lzw")]
        for number, payload in enumerate(payloads):
            sender.sendall(frame(payload))
            if number % 100 == 0:
                peer.sendall(b"".join(relayed))
                assert [old.receive(len(one)) for one in relayed] == relayed
                old.socket.sendall(raw("tcp_keepalive"))
                golden = encode_message(
                    DEFAULT_NETWORK_ID,
                    Opcode.KEEPALIVE_RESPONSE,
                    sender=old.expected_answer(relay).sender,
                    message_nonce=2 + number // 100,
                )
                assert old.receive(len(golden)) == golden
        for visitor in visitors:
            visitor.join(60)
        digests = [hashlib.sha256(payload).hexdigest() for payload in payloads]
        node.wait_for(rf"\d+ {digests[-1]}")
    assert echoed == dict.fromkeys(range(6), True)
    heard = [line.split() for line in node.stdout.splitlines()[1:]]
    assert [digest for _, digest in heard] == digests
    assert [int(opcode) for opcode, _ in heard] == [1000 + len(one) % 7 for one in payloads]

    assert old.answer == old.expected_answer(relay)
    old.socket.shutdown(socket.SHUT_WR)
    assert old.socket.recv(1) == b"", "something that was not asked for"
    old.socket.close()
    node.end(signal.SIGTERM)


def test_the_golden_answers_to_part_a_are_the_same_beside_part_b(relay: Relay, run: Run) -> None:
    """Whatever part B does on its own connection, another one's numbers do not move."""
    run(sys.executable, NODE, relay.via).wait_for(r"reached at .*")
    old = PartA(relay)
    assert old.answer.message_nonce == 1
    assert old.answer.SerializeToString() == old.expected_answer(relay).SerializeToString()
    old.socket.close()
