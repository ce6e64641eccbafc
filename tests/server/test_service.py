"""The real twistd with real sockets; nodes and visitors are hand-made frames."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID
from tests.conftest import VECTORS
from tests.ports import unused_port as free_port

pytestmark = [pytest.mark.process, pytest.mark.heavy]
NET = DEFAULT_NETWORK_ID


def raw(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


class Relay:
    """One service in a child process; the same state directory at each start."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.options: list[str] = []
        self.log = directory / "log"

    def run(self, *options: str) -> subprocess.Popen[bytes]:
        twistd = Path(sys.executable).with_name("twistd")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(twistd, "-n", "--pidfile=", "proxyservice"),
                    *("--state-dir", self.directory / "s"),
                    *("--listen", f"tcp:{self.port}:interface=127.0.0.1"),
                    *self.options,
                    *options,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        return self.process

    def start(self) -> None:
        process = self.run()
        wait_until(lambda: self._listens() or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()

    def _listens(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def connect(self, port: int = 0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=10)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)


def wait_until(true: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        select_nothing()


def select_nothing() -> None:
    """Let the other process run for a moment while polling a condition."""
    import select

    select.select([], [], [], 0.02)


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(tmp_path)
    low = 24000 + os.getpid() % 1000 * 4
    relay.options = ["--ports", f"{low}-{low + 3}"]
    relay.start()
    yield relay
    if relay.process is not None and relay.process.poll() is None:
        assert relay.stop() == 0
    assert "Traceback" not in relay.log.read_text()
    assert "Unhandled" not in relay.log.read_text()


def receive(node: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := node.recv(size - len(data))):
        data += more
    return data


def receive_message(node: socket.socket) -> pb.Message:
    (size,) = struct.unpack(">6xI", receive(node, 10))
    return pb.Message.FromString(receive(node, size))


def request_of(who: str) -> bytes:
    key = bytes.fromhex(VECTORS[f"identity_{who}_id"]["inputs"]["net_key"])
    sender = pb.ID(
        net_key=key, address="tcp://127.0.0.1:60001", connection_id=raw(f"identity_{who}_id")
    )
    return encode_message(NET, Opcode.PROXY_REQUEST, sender=sender)


def lease(relay: Relay, request: bytes) -> tuple[socket.socket, int]:
    node = relay.connect()
    node.sendall(request)
    message = receive_message(node)
    assert message.opcode == Opcode.PROXY_RESPONSE
    address = pb.ProxyResponse.FromString(message.message).proxy_address
    match = re.fullmatch(r"127\.0\.0\.1:(\d+)", address)
    assert match is not None
    return node, int(match[1])


def closed(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


def test_the_seven_steps(relay: Relay) -> None:
    main1, port1 = lease(relay, raw("tcp_proxy_request_unsigned"))
    main2, port2 = lease(relay, request_of("b"))
    connection3, connection4 = relay.connect(port2), relay.connect(port1)
    with main1, main2, connection3, connection4:
        ping, pong = raw("tcp_pong"), raw("tcp_ping")
        connection3.sendall(ping)
        assert receive(main2, len(ping)) == ping
        connection4.sendall(pong)
        assert receive(main1, len(pong)) == pong


def test_answers_equal_the_vectors_but_for_port_and_address(relay: Relay) -> None:
    with relay.connect() as node:
        node.sendall(raw("tcp_proxy_request_unsigned") + raw("tcp_keepalive"))
        node.sendall(raw("tcp_metric_request"))
        address = f"tcp://127.0.0.1:{relay.port}"
        sender = pb.ID(net_key=b"PORTER_TCP_NETKEY", address=address)
        first = receive_message(node)
        assert (first.sender, first.message_nonce, first.netID) == (sender, 1, NET)
        keepalive = encode_message(NET, 3, sender=sender, message_nonce=2)
        assert receive(node, len(keepalive)) == keepalive
        payload = VECTORS["tcp_metric_response"]["inputs"]["message"]["message_hex"]
        metric = encode_message(
            NET, 17, bytes.fromhex(payload), sender=sender, message_nonce=3, request_nonce=1,
            reply=True,
        )  # fmt: skip
        assert receive(node, len(metric)) == metric


def test_one_byte_at_a_time(relay: Relay) -> None:
    with relay.connect() as node:
        for byte in raw("tcp_proxy_request_signed"):
            node.sendall(bytes((byte,)))
        assert receive_message(node).opcode == Opcode.PROXY_RESPONSE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_keeps_every_address(relay: Relay, number: int) -> None:
    first, port1 = lease(relay, request_of("a"))
    second, port2 = lease(relay, request_of("b"))
    assert port1 != port2
    status = relay.stop(number)
    assert status == (0 if number == signal.SIGTERM else -9)
    first.close()
    second.close()
    relay.start()
    second, again2 = lease(relay, request_of("b"))
    first, again1 = lease(relay, request_of("a"))
    assert (again1, again2) == (port1, port2)
    first.close()
    second.close()


def test_the_newest_connection_takes_over_at_once_and_the_older_is_aborted(relay: Relay) -> None:
    old, port = lease(relay, request_of("a"))
    with old, relay.connect(port) as visitor:
        new, again = lease(relay, request_of("a"))
        with new:
            assert again == port
            assert closed(old)
            visitor.sendall(raw("tcp_pong"))
            assert receive(new, len(raw("tcp_pong"))) == raw("tcp_pong"), "its visitors stay"
            with relay.connect(port) as other:
                other.sendall(raw("tcp_ping"))
                assert receive(new, len(raw("tcp_ping"))) == raw("tcp_ping")


def test_a_second_request_hears_the_same_address(relay: Relay) -> None:
    node, _ = lease(relay, request_of("a"))
    with node:
        node.sendall(request_of("a"))
        first = receive_message(node)
        assert first.opcode == Opcode.PROXY_RESPONSE
        assert first.message_nonce == 2


def test_a_second_connection_id_closes(relay: Relay) -> None:
    node, _ = lease(relay, request_of("a"))
    with node:
        node.sendall(request_of("b"))
        assert closed(node)


def test_a_keepalive_without_a_lease_is_not_answered_and_4_kib_are_enough(relay: Relay) -> None:
    with relay.connect() as node:
        keepalive = raw("tcp_keepalive")
        node.sendall(keepalive * 100)
        assert closed(node)


def test_bad_frames_close_their_own_connection_only(relay: Relay) -> None:
    node, port = lease(relay, request_of("a"))
    with node:
        for name in [n for n in VECTORS if n.startswith("bad_") and "udp" not in n]:
            for target in (relay.port, port):
                with relay.connect(target) as bad:
                    bad.sendall(raw(name))
                    assert closed(bad), name
        with relay.connect(port) as visitor:
            visitor.sendall(raw("tcp_ping"))
            assert receive(node, len(raw("tcp_ping"))) == raw("tcp_ping")


def test_a_request_without_a_port_left_waits_and_disturbs_nobody(relay: Relay) -> None:
    nodes = []
    for number in range(4):
        sender = pb.ID(net_key=b"k", address="tcp://h:1", connection_id=bytes((number, 1)))
        nodes.append(lease(relay, encode_message(NET, 15, sender=sender))[0])
    with relay.connect() as fifth:
        fifth.sendall(request_of("a"))
        fifth.settimeout(1.5)
        with pytest.raises(TimeoutError):
            fifth.recv(1)
    nodes[0].sendall(encode_message(NET, 2, sender=sender_of_first()))
    assert receive_message(nodes[0]).opcode == Opcode.KEEPALIVE_RESPONSE
    for node in nodes:
        node.close()
    assert "waits for a port: no port is left" in relay.log.read_text()


def sender_of_first() -> pb.ID:
    return pb.ID(net_key=b"k", address="tcp://h:1", connection_id=bytes((0, 1)))


def test_a_visitor_waits_while_the_node_does_not_read_and_loses_nothing(relay: Relay) -> None:
    node, port = lease(relay, request_of("a"))
    sender = pb.ID(net_key=b"v", address="tcp://h:1")
    frame = encode_message(NET, 1000, bytes(1 << 20), sender=sender)
    with node, relay.connect(port) as visitor:
        visitor.setblocking(False)
        sent, total = 0, 40 * len(frame)
        stuck_since = time.monotonic()
        while sent < total and time.monotonic() - stuck_since < 0.5:
            try:
                sent += visitor.send((frame * 2)[sent % len(frame) :][: total - sent])
                stuck_since = time.monotonic()
            except BlockingIOError:
                select_nothing()
        assert sent < total, "the relay buffers without end"
        whole = sent // len(frame) * len(frame)
        assert receive(node, whole) == frame * (whole // len(frame))


@pytest.mark.parametrize(
    "option",
    [
        ["--ports", "1-70000"],
        ["--ports", ""],
        ["--lease-ttl", "soon"],
        ["--max-frame", "64XB"],
        ["--network-id", "-1"],
        ["--node-address", "127.0.0.1:1"],
        ["--port-interface", "eth0"],
        ["--port-interface", "192.0.2.77"],
        ["--port-interface", "2001:db8::77"],
        ["--store", "mysql://x"],
        ["--store", "sqlite:////nonexistent/x"],
        ["--listen", "nonsense:1"],
        ["--public-host", "a b"],
        ["--public-host", "relay.example:80"],
        ["--state-dir", "/dev/null/x"],
        ["--lisen", "tcp:1"],
    ],
)
def test_a_wrong_option_is_one_line(tmp_path: Path, option: list[str]) -> None:
    relay = Relay(tmp_path)
    assert relay.run(*option).wait(15) in (1, 2)
    lines = relay.log.read_text().splitlines()
    told = [line for line in lines if not re.match(r"\d{4}-", line)]  # the log has a date
    assert len(told) == 1, lines


def test_a_taken_port_or_state_directory_ends_the_start(relay: Relay) -> None:
    second = Relay(relay.directory)
    assert second.run().wait(15) == 1
    assert "is in use by process" in second.log.read_text()
    elsewhere = Relay(relay.directory)
    elsewhere.port = relay.port
    assert elsewhere.run("--state-dir", str(relay.directory / "other")).wait(15) == 1
    text = elsewhere.log.read_text()
    assert "cannot listen on" in text
    assert "Traceback" not in text
