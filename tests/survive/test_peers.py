"""Peers that are there and say nothing: who is dropped, when, and who never is."""

from __future__ import annotations

import signal
import socket
import threading

import pytest

from proxyservice.wire import proxyservice_pb2 as pb
from tests.attacks.kit import application_frame, proxy_request, receive, receive_message
from tests.node.processes import EchoServer, visit
from tests.real.conftest import address_of, socket_address
from tests.survive.conftest import Expose, Relays

pytestmark = [pytest.mark.process, pytest.mark.heavy]


def test_a_stopped_node_is_found_and_a_silent_one_of_part_a_is_not(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays("--keepalive", "1s", "--hold", "1h")
    with socket.create_connection(("127.0.0.1", relay.port), timeout=20) as silent:
        silent.sendall(proxy_request(1))
        answer = pb.ProxyResponse.FromString(receive_message(silent).message)
        exposing = expose(echo.port, "--via", relay.via)
        address = address_of(exposing, echo.port)
        exposing.process.send_signal(signal.SIGSTOP)
        port = address.rpartition(":")[2]
        relay.wait_for(f"node gone from port {port}, .*")
        answers: list[bytes] = []
        waiting = threading.Thread(target=lambda: answers.append(visit(address, b"wait for it")))
        waiting.start()
        exposing.process.send_signal(signal.SIGCONT)
        exposing.wait_for(f"{echo.port} is reached at {address} again", stderr=True)
        waiting.join(20)
        assert answers == [b"wait for it"], "its visitor was held"
        # Three of its keepalives and more have passed without a byte of the other one.
        with socket.create_connection(socket_address(answer.proxy_address)) as visitor:
            frame = application_frame(b"are you there?")
            visitor.sendall(frame)
            assert receive(silent, len(frame)) == frame


def test_a_stopped_relay_is_found_by_its_node(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    relay = relays("--keepalive", "500ms")
    exposing = expose(echo.port, "--via", relay.via)
    address = address_of(exposing, echo.port)
    relay.process.send_signal(signal.SIGSTOP)
    exposing.wait_for(f"{relay.via}: nothing heard for .*", stderr=True)
    relay.process.send_signal(signal.SIGCONT)
    exposing.wait_for(f"{echo.port} is reached at {address} again", stderr=True)
    assert visit(address, b"hello") == b"hello"


def test_a_node_that_takes_no_data_loses_its_connection_and_nobody_elses(
    relays: Relays, expose: Expose, echo: EchoServer
) -> None:
    """A stopped node whose visitor sends: by silence or by the stall, whichever is first."""
    relay = relays("--keepalive", "2s", "--hold", "0")
    stopped, other = (expose(echo.port, "--via", relay.via) for _ in range(2))
    address, others = address_of(stopped, echo.port), address_of(other, echo.port)
    with socket.create_connection(socket_address(address), timeout=20) as visitor:
        visitor.sendall(b"x")
        assert visitor.recv(1) == b"x"
        stopped.process.send_signal(signal.SIGSTOP)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            visitor.sendall(bytes(1 << 26))
        assert visit(others, b"hello") == b"hello"
    stopped.process.send_signal(signal.SIGCONT)
