"""Main connections behind a front end: a header in plain says who it is, then TLS or frames."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from proxyservice.server.main_ports import MainPort
from proxyservice.tap import Options
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.attacks.kit import closed, proxy_request, receive_message
from tests.attacks.running import RunningService
from tests.node.processes import EchoServer, Program, visit, wait_until
from tests.ports import unused_port
from tests.server.certificates import Authority, expose
from tests.wire.test_proxy_header import BAD, version_2

HAPROXY = shutil.which("haproxy")
LINE = "PROXY TCP4 {source} 198.51.100.1 40000 6008\r\n"
FAR = "11.22.33.44"


class Fronted:
    """A service with one more main port, which wants PROXY headers."""

    def __init__(self, directory: Path, *options: str, prefix: str = "haproxy:") -> None:
        self.port = unused_port()
        listen = f"{prefix}tcp:{self.port}:interface=127.0.0.1"
        self.service = RunningService(directory, "--listen", listen, *options)

    def connect(self, header: bytes) -> socket.socket:
        peer = self.service.connect(self.port)
        peer.sendall(header)
        return peer

    def lease(self, header: bytes, number: int) -> tuple[socket.socket, pb.Message]:
        """A node behind this header, and the answer to its request."""
        node = self.connect(header + proxy_request(number))
        return node, receive_message(node)


def from_source(source: str) -> bytes:
    return LINE.format(source=source).encode()


@pytest.mark.process
@pytest.mark.heavy
def test_the_source_is_the_one_that_the_header_says(tmp_path: Path) -> None:
    """For what is announced, for the log, for claims and for limits per source."""
    fronted = Fronted(tmp_path, "--claimed", "local", "--limit", "leases-per-source=1")
    with fronted.service as service:
        with fronted.connect(from_source(FAR) + proxy_request(1)) as node:
            assert closed(node), "a claim from a public address"
        service.wait_to_say(f"refused {FAR}: here a node has to prove its key")
        local = from_source("10.1.2.3")
        first, answer = fronted.lease(local, 2)
        assert answer.opcode == Opcode.PROXY_RESPONSE
        assert answer.sender.address == "tcp://198.51.100.1:6008", "what the node has dialled"
        service.wait_to_say("at 10.1.2.3")
        with fronted.connect(local + proxy_request(3)) as second:
            assert closed(second), "one lease for each source"
        other, answer = fronted.lease(from_source("10.1.2.4"), 4)
        assert answer.opcode == Opcode.PROXY_RESPONSE
        first.close()
        other.close()


@pytest.mark.process
@pytest.mark.heavy
def test_a_header_byte_by_byte_and_the_front_end_itself(tmp_path: Path) -> None:
    fronted = Fronted(tmp_path)
    with fronted.service as service:
        with fronted.connect(b"") as node:
            node.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            said = from_source(FAR) + proxy_request(1)
            for at in range(len(said)):
                node.sendall(said[at : at + 1])
            assert receive_message(node).opcode == Opcode.PROXY_RESPONSE
        service.wait_to_say(f"at {FAR}")
        for header in (b"PROXY UNKNOWN\r\n", version_2(0x20, 0, b"")):
            node, answer = fronted.lease(header, 2)
            assert answer.sender.address == f"tcp://127.0.0.1:{fronted.port}"
            node.close()


@pytest.mark.process
@pytest.mark.heavy
def test_what_has_no_header_is_closed_at_once_or_in_time(tmp_path: Path) -> None:
    fronted = Fronted(tmp_path, "--limit", "seconds-to-identity=1s")
    with fronted.service as service:
        for data in (proxy_request(1), *BAD.values()):
            with fronted.connect(data) as peer:
                assert closed(peer), data
        with fronted.connect(b"PROXY TCP4 ") as slow:
            assert closed(slow)
        service.wait_to_say("refused a front end's connection: no PROXY header in time")
        with fronted.connect(from_source(FAR) + b"x" * 5000) as stranger:
            assert closed(stranger), "behind the header strangers are as bounded as anywhere"


@pytest.mark.process
@pytest.mark.heavy
def test_so_many_wait_for_their_header(tmp_path: Path) -> None:
    fronted = Fronted(tmp_path, "--limit", "connections-without-identity=3")
    with fronted.service:
        waiting = [fronted.connect(b"PROXY ") for _ in range(3)]
        with fronted.connect(from_source(FAR)) as one_more:
            assert closed(one_more)
        waiting.pop().close()
        node = None

        def admitted() -> bool:
            nonlocal node
            try:
                node, _ = fronted.lease(from_source(FAR), 1)
            except ConnectionError:
                return False
            return True

        wait_until(admitted, what="room for one more")
        for peer in (*waiting, node):
            assert peer is not None
            peer.close()


def tls_options(authority: Authority) -> tuple[str, ...]:
    certificate, key, _ = authority.issue("relay")
    return ("--tls-cert", str(certificate), "--tls-key", str(key))


@pytest.mark.process
@pytest.mark.heavy
def test_tls_begins_behind_the_header(tmp_path: Path, authority: Authority) -> None:
    fronted = Fronted(tmp_path, *tls_options(authority), prefix="tls:haproxy:")
    with fronted.service as service:
        trust = ssl.create_default_context(cafile=authority.pem)
        plain = fronted.connect(from_source(FAR))
        with trust.wrap_socket(plain, server_hostname="127.0.0.1") as node:
            node.sendall(proxy_request(1))
            assert receive_message(node).opcode == Opcode.PROXY_RESPONSE
            service.wait_to_say(f"at {FAR}")
        refused = (ssl.SSLError, ConnectionError)
        with service.connect(fronted.port) as peer, pytest.raises(refused):
            trust.wrap_socket(peer, server_hostname="127.0.0.1")


HAPROXY_FILE = """
defaults
  mode tcp
  timeout connect 10s
  timeout client 60s
  timeout server 60s
listen text
  bind 127.0.0.1:{text_port}
  server relay 127.0.0.1:{plain_port} send-proxy
listen binary
  bind 127.0.0.1:{binary_port}
  server relay 127.0.0.1:{tls_port} send-proxy-v2
"""


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
def test_behind_haproxy_itself(
    tmp_path: Path,
    authority: Authority,
    started: list[Program],
    free_ports: Callable[[int], list[int]],
) -> None:
    """Text and plain frames; binary and TLS that haproxy passes on unopened."""
    text_port, binary_port, plain_port, tls_port = free_ports(4)
    rules = HAPROXY_FILE.format(
        text_port=text_port, binary_port=binary_port, plain_port=plain_port, tls_port=tls_port
    )
    (tmp_path / "haproxy.cfg").write_text(rules)
    started.append(Program(tmp_path / "front", str(HAPROXY), "-db", "-f", tmp_path / "haproxy.cfg"))
    listens = (f"haproxy:tcp:{plain_port}", f"tls:haproxy:tcp:{tls_port}")
    options = [f"--listen={one}:interface=127.0.0.1" for one in listens]
    options += ["--claimed", "allow", *tls_options(authority)]
    with RunningService(tmp_path, *options) as service, EchoServer() as echo:
        wait_until(lambda: listening(text_port), what="haproxy listens")
        node = service.connect(text_port, source="127.0.0.2")
        with node:
            node.sendall(proxy_request(1))
            answer = receive_message(node)
            assert answer.sender.address == f"tcp://127.0.0.1:{text_port}"
            service.wait_to_say("at 127.0.0.2")
        trust = ("--ca", authority.pem)
        proved = expose(started, tmp_path, echo.port, binary_port, *trust)
        address = proved.wait_for(r"exposed \d+ at (\S+)")[1]
        assert visit(address, b"hello" * 100_000) == b"hello" * 100_000
        assert proved.end() == 0


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


# -------------------------------------------------------------------------------- --listen


@pytest.mark.parametrize(
    ("listen", "meant"),
    [
        ("tcp:1", MainPort("tcp:1", tls=False, front_end=False)),
        ("tls:tcp:1", MainPort("tcp:1", tls=True, front_end=False)),
        ("haproxy:tcp:1", MainPort("tcp:1", tls=False, front_end=True)),
        ("tls:haproxy:tcp:1", MainPort("tcp:1", tls=True, front_end=True)),
        (
            "haproxy:systemd:domain=INET6:index=0",
            MainPort("systemd:domain=INET6:index=0", tls=False, front_end=True),
        ),
    ],
)
def test_what_stands_before_an_endpoint(listen: str, meant: MainPort) -> None:
    assert MainPort.parse(listen) == meant


@pytest.mark.parametrize("listen", ["haproxy:tls:tcp:1", "haproxy:ssl:1", "tls:haproxy:tls:tcp:1"])
def test_a_header_inside_tls_is_refused_with_how_to_write_it(
    tmp_path: Path, listen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        Options().parseOptions(["--state-dir", str(tmp_path), "--listen", listen])
    assert "write it as tls:haproxy:tcp:" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.heavy
def test_a_port_that_everybody_reaches_is_warned_of(tmp_path: Path, free_port: int) -> None:
    listen = ("--listen", f"haproxy:tcp:{free_port}")
    with RunningService(tmp_path, *listen) as service:
        service.wait_to_say("let only the front end reach it")
