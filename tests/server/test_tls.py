"""TLS below main connections: whose certificate is good, what a proof is bound to, new files."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import ssl
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from proxyservice.errors import RefusedError, UntrustedError
from proxyservice.net.tls_transport import Channel
from proxyservice.node.handshake import Handshake as NodeHandshake
from proxyservice.node.identity import NodeIdentity
from proxyservice.node.known_relays import KnownRelays
from proxyservice.server.handshake import Handshake
from proxyservice.wire import proxyservice_pb2 as pb
from tests.node.processes import SCRIPTS, EchoServer, Program, visit, wait_until
from tests.server.certificates import Authority, expose, serve

NET = 7
RELAY_ID = bytes(32)


@pytest.mark.process
@pytest.mark.heavy
def test_an_authority_or_a_pin_is_enough_and_bytes_arrive_whole(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    files = authority.issue("relay")
    serve(started, tmp_path, free_port, files)
    said = os.urandom(8 << 20)
    with EchoServer() as echo:
        for trust in (("--ca", authority.pem), ("--pin", "00" * 32, "--pin", files[2])):
            node = expose(started, tmp_path, echo.port, free_port, *trust)
            address = node.wait_for(r"exposed \d+ at (\S+)")[1]
            digests = [hashlib.sha256(data).digest() for data in (said, visit(address, said))]
            assert digests[0] == digests[1]
            assert node.end() == 0


@pytest.mark.process
@pytest.mark.heavy
def test_who_is_not_trusted_is_told_apart_and_tried_again(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    serve(started, tmp_path, free_port, authority.issue("relay"))
    stranger = Authority(tmp_path, "stranger")
    unknown = "is not trusted: unable to get local issuer certificate; .*--ca"
    for trust, reason, wait in (
        ((), unknown, r"2\.\d s"),
        (("--ca", stranger.pem), unknown, r"2\.\d s"),
        (("--pin", "11" * 32), "is not pinned: .*somebody else", "5m"),
    ):
        node = expose(started, tmp_path, 1, free_port, *trust)
        node.wait_for(f"{reason}.*; trying again in {wait}", stderr=True)
        assert node.end() == 0
        assert node.stdout == ""


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("dialled", "wrong", "reason"),
    [
        ("127.0.0.1", {"host": "127.0.0.2"}, "is for another name: relay"),
        ("127.0.0.1", {"host": "localhost"}, "is for another name: relay, localhost"),
        ("127.0.0.1", {"host": ""}, "is of no use"),
        ("localhost", {"host": "example.org"}, "is for another name: relay, example.org"),
        ("localhost", {"host": ""}, "is of no use"),
        ("127.0.0.1", {"days": -1}, "certificate has expired .*clock here"),
    ],
)
def test_a_certificate_for_another_name_or_none_or_of_the_past_is_refused(
    dialled: str,
    wrong: dict[str, object],
    reason: str,
    tmp_path: Path,
    authority: Authority,
    started: list[Program],
    free_port: int,
) -> None:
    serve(started, tmp_path, free_port, authority.issue("relay", **wrong))  # type: ignore[arg-type]
    node = expose(started, tmp_path, 1, free_port, "--ca", authority.pem, host=dialled)
    node.wait_for(f".*{reason}.*; trying again in 2.*", stderr=True)
    assert node.end() == 0


@pytest.mark.process
@pytest.mark.heavy
def test_a_certificate_may_be_for_a_name(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    serve(started, tmp_path, free_port, authority.issue("relay", host="localhost"))
    with EchoServer() as echo:
        trust = ("--ca", authority.pem)
        node = expose(started, tmp_path, echo.port, free_port, *trust, host="localhost")
        assert visit(node.wait_for(r"exposed \d+ at (\S+)")[1], b"hello") == b"hello"


@pytest.mark.process
@pytest.mark.heavy
def test_tls_1_2_is_refused_and_a_client_authority_wants_certificates(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    relay = authority.issue("relay")
    serve(started, tmp_path, free_port, relay, "--tls-client-ca", authority.pem)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", free_port), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain)
    certificate, key, _ = authority.issue("node")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    of_strangers, its_key, _ = Authority(tmp_path, "stranger").issue("unknown")
    with EchoServer() as echo:
        for shown in ((), ("--cert", of_strangers, "--cert-key", its_key)):
            refused = expose(started, tmp_path, echo.port, free_port, "--ca", authority.pem, *shown)
            told = ".*wants another certificate of this node, --cert.*trying again.*"
            refused.wait_for(told, stderr=True)
            assert refused.end() == 0
        for trust in (("--ca", authority.pem), ("--pin", relay[2])):
            for shown in (("--cert", both), ("--cert", certificate, "--cert-key", key)):
                node = expose(started, tmp_path, echo.port, free_port, *trust, *shown)
                assert visit(node.wait_for(r"exposed \d+ at (\S+)")[1], b"hello") == b"hello"
                assert node.end() == 0


@pytest.mark.process
@pytest.mark.heavy
def test_new_files_serve_new_connections_and_leave_old_ones_alone(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    first = authority.issue("relay")
    relay = serve(started, tmp_path, free_port, first)
    with EchoServer() as echo:
        node = expose(started, tmp_path, echo.port, free_port, "--pin", first[2])
        address = node.wait_for(r"exposed \d+ at (\S+)")[1]
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=15) as visitor:
            visitor.sendall(b"before")
            assert visitor.recv(6, socket.MSG_WAITALL) == b"before"
            second = authority.issue("relay")
            relay.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "was read again" in relay.stdout)
            visitor.sendall(b"after")
            assert visitor.recv(5, socket.MSG_WAITALL) == b"after"
            other = expose(started, tmp_path, echo.port, free_port, "--pin", second[2])
            other.wait_for(r"exposed \d+ at (\S+)")
            first[1].write_text("no key")
            relay.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "the old certificate stays in use" in relay.stdout)
            visitor.sendall(b"still")
            assert visitor.recv(5, socket.MSG_WAITALL) == b"still"


@pytest.mark.process
@pytest.mark.heavy
def test_a_relay_that_was_killed_is_met_again(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    """An end without TLS's own is no reason to give up."""
    relay = serve(started, tmp_path, free_port, authority.issue("relay"))
    with EchoServer() as echo:
        node = expose(started, tmp_path, echo.port, free_port, "--ca", authority.pem, "--json")
        node.wait_for('.*"event": ?"exposed".*')
        relay.kill()
        relay.again()
        node.wait_for('.*"event": ?"resumed".*')


LEGACY_NODE = """
import sys
from twisted.internet import reactor
from proxyservice.node.events import NodeEvents
from proxyservice.node.node import Node
from proxyservice.node.tls import TLSTrust, parse_pin

class Told(NodeEvents):
    def addressed(self, lease, *, changed):
        print("addressed", flush=True)
    def disconnected(self, server, error, retry_seconds):
        print("disconnected:", error, retry_seconds, flush=True)

Node([sys.argv[1]], legacy=True, trust=TLSTrust(pins=(parse_pin(sys.argv[2]),)),
     events=Told()).startService()
reactor.run()
"""


@pytest.mark.process
@pytest.mark.heavy
def test_a_pin_holds_without_any_handshake_of_ours(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    """A node of part A hears no Challenge: TLS alone must tell it who is there."""
    files = authority.issue("relay")
    serve(started, tmp_path, free_port, files)
    for number, (pin, told) in enumerate(
        ((files[2], "addressed"), ("22" * 32, "disconnected: .*pin.* 300.0"))
    ):
        command = (sys.executable, "-c", LEGACY_NODE, f"tls:127.0.0.1:{free_port}", pin)
        node = Program(tmp_path / f"legacy{number}", *command)
        started.append(node)
        node.wait_for(told)


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--cert", "nothing.pem"), "cannot read .*nothing.pem"),
        (("--cert", "relay.key"), "relay.key holds no certificate"),
        (("--cert", "relay.crt"), "relay.crt holds no private key"),
        (("--cert", "relay.crt", "--cert-key", "other.key"), "is not the key of"),
        (("--cert", "relay.crt", "--cert-key", "locked.key"), "locked.key is encrypted"),
        (("--cert-key", "relay.key"), "--cert"),
        (("--ca", "nothing.pem"), "cannot read .*nothing.pem"),
        (("--ca", "relay.key"), "relay.key holds no certificate"),
        (("--pin", "abc"), "64 hex digits"),
    ],
)
def test_files_that_a_node_cannot_use_end_it_in_one_line(
    options: tuple[str, ...], reason: str, tmp_path: Path, authority: Authority
) -> None:
    for name in ("relay", "other", "locked"):
        authority.issue(name)
    lock(tmp_path / "locked.key")
    command = (SCRIPTS / "proxyservice", "expose", "1", "--via", "tls:127.0.0.1:1", *options)
    program = Program(tmp_path, *command)
    assert program.ended() in (1, 2)
    assert len(program.stderr.splitlines()) == 1, program.stderr
    assert re.search(reason, program.stderr)


def lock(path: Path) -> None:
    """Encrypt a key, as with a passphrase."""
    key = load_pem_private_key(path.read_bytes(), None)
    locked = BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.parametrize(
    "options",
    [
        ["--listen", "tls:tcp:1"],
        ["--tls-cert", "nothing.pem", "--tls-key", "nothing.pem", "--listen", "tls:tcp:1"],
        ["--tls-cert", "authority.pem", "--tls-key", "authority.pem", "--listen", "tls:tcp:1"],
        ["--tls-cert", "relay.crt", "--tls-key", "other.key", "--listen", "tls:tcp:1"],
        ["--tls-cert", "relay.crt", "--tls-key", "locked.key", "--listen", "tls:tcp:1"],
        ["--tls-cert", "relay.crt", "--tls-key", "relay.key"],
    ],
)
def test_files_that_cannot_be_used_end_the_start_in_one_line(
    options: list[str], tmp_path: Path, authority: Authority
) -> None:
    for name in ("relay", "other", "locked"):
        authority.issue(name)
    lock(tmp_path / "locked.key")
    command = (SCRIPTS / "twistd", "-n", "--pidfile=", "proxyservice", "--state-dir", "state")
    program = Program(tmp_path, *command, *options)
    assert program.ended() in (1, 2)
    assert len(program.stderr.splitlines()) == 1, program.stderr
    assert program.stdout == ""


# --------------------------------------------------------------- what a proof is bound to


def both_halves(node_channel: Channel, server_channel: Channel) -> bool:
    """A handshake whose ends see these channels; whether the server takes the proof."""
    identity = NodeIdentity(Ed25519PrivateKey.generate())
    node = NodeHandshake(NET, identity, "relay", KnownRelays())
    hello = pb.Message(message=node.hello(1).SerializeToString(), sender=identity.sender, opcode=32)
    node.hello_body = hello.SerializeToString()
    server = Handshake(NET, RELAY_ID, server_channel, hello, node.hello_body)
    challenge = pb.Message(message=server.challenge().SerializeToString(), opcode=33)
    server.challenged(challenge.SerializeToString(), 0.0)
    proof = node.challenge_received(challenge, challenge.SerializeToString(), node_channel)
    assert proof is not None
    message = pb.Message(message=proof.SerializeToString(), sender=identity.sender, opcode=34)
    try:
        return server.prove(message, 1.0).proved
    except RefusedError as error:
        assert error.code == pb.REFUSAL_UNAUTHENTICATED
        return False


CERTIFICATE, OTHER_CERTIFICATE = bytes([1]) * 32, bytes([2]) * 32
TLS = Channel(1, bytes([3]) * 32, CERTIFICATE)


def test_one_channel_is_proved() -> None:
    assert both_halves(TLS, TLS)
    assert both_halves(Channel(), Channel())


def test_a_proof_does_not_pass_from_one_connection_to_another() -> None:
    """Somebody who ends TLS in between has two connections, whose exporter values differ."""
    assert not both_halves(Channel(1, bytes([4]) * 32, CERTIFICATE), TLS)


@pytest.mark.parametrize(
    ("node", "server"),
    [
        (Channel(1, TLS.binding, OTHER_CERTIFICATE), TLS),  # the certificate was another's
        (TLS, Channel()),  # no binding on TLS
        (Channel(), TLS),  # and none expected
    ],
)
def test_a_node_proves_nothing_to_who_is_not_the_relay(node: Channel, server: Channel) -> None:
    with pytest.raises(UntrustedError):
        both_halves(node, server)


@pytest.mark.process
@pytest.mark.heavy
def test_a_node_reads_renewed_files_before_each_attempt(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    """A certificate of its own that has expired, and authorities that have changed."""
    relay = serve(
        started, tmp_path, free_port, authority.issue("relay"), "--tls-client-ca", authority.pem
    )
    certificate, key, _ = authority.issue("node", days=-1)
    files = ("--cert", certificate, "--cert-key", key)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(Authority(tmp_path, "stranger").pem.read_bytes())
    with EchoServer() as echo:
        node = expose(started, tmp_path, echo.port, free_port, "--ca", trusted, *files)
        node.wait_for(".*is not trusted: .*; trying again in .*", stderr=True)
        trusted.write_bytes(authority.pem.read_bytes())
        node.wait_for(".*wants another certificate of this node.*trying again.*", stderr=True)
        key.unlink()
        node.wait_for(".*cannot read .*node.key.*; what was read before stays in use", stderr=True)
        authority.issue("node")
        assert visit(node.wait_for(r"exposed \d+ at (\S+)")[1], b"hello") == b"hello"
        assert node.end() == 0
    assert relay.end() == 0
