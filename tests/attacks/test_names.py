"""Other people's names over real sockets: T1, T2 and keys for which anybody can sign."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import PAYLOADS, Opcode
from tests.attacks.kit import (
    ProvedNode,
    application_frame,
    receive_message,
    small_order_hellos,
    stolen_names,
)
from tests.attacks.running import RunningService, scaled

pytestmark = pytest.mark.process


@pytest.mark.heavy
def test_t1_public_data_takes_no_proved_lease(tmp_path: Path) -> None:
    """1,000 tries with everything that is public; the victim loses no byte."""
    with RunningService(tmp_path, lease_ports=8) as service:
        victim = ProvedNode(service, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        with victim.connection, service.connect(victim.port) as visitor:
            for turn in range(scaled(1000, 80) // 8):
                for said in stolen_names(victim):
                    with service.connect() as thief:
                        thief.sendall(said)
                        for opcode, payload in answers(thief):
                            assert opcode != Opcode.WELCOME or not payload.proved
                            if opcode == Opcode.PROXY_RESPONSE:
                                assert not payload.proxy_address.endswith(f":{victim.port}")
                frame = application_frame(b"%d" % turn)
                visitor.sendall(frame)
                assert victim.hears(frame)


def answers(thief: socket.socket) -> Iterator[tuple[int, Any]]:
    """What it hears until it is closed; it asks for the end itself."""
    thief.shutdown(socket.SHUT_WR)
    with suppress(ConnectionError):
        while True:
            message = receive_message(thief)
            yield message.opcode, PAYLOADS[message.opcode].FromString(message.message)


def test_keys_of_small_order_are_refused(tmp_path: Path) -> None:
    with RunningService(tmp_path) as service:
        for said in small_order_hellos():
            with service.connect() as liar:
                liar.sendall(said)
                heard = [receive_message(liar)]
                while heard[-1].opcode == Opcode.CHALLENGE:
                    heard.append(receive_message(liar))
                assert heard[-1].opcode == Opcode.REFUSAL
                refusal = pb.Refusal.FromString(heard[-1].message)
                assert refusal.code == pb.REFUSAL_UNAUTHENTICATED
