"""Somebody between node and relay who ends TLS, proofs of other connections, peers that stop."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from proxyservice.net.eager import EagerProtocol
from proxyservice.net.tls_transport import EXPORTER_LABEL, TLSTransport, key_hash, tls_factory
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, HEADER_BYTES, encode_frame
from proxyservice.wire.proof import NO_BINDING, proof_input, sign_proof
from tests.attacks.kit import GoodPair, ends_unread, keepalive, proxy_request, sender
from tests.attacks.running import RunningService, figure, full, scaled
from tests.node.processes import Program, wait_until
from tests.server.certificates import Authority, expose, serve
from tests.traced import counts_references

NET = DEFAULT_NETWORK_ID
HOST = "127.0.0.1"

Change = Callable[[bytes], bytes]


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# ------------------------------------------------------- somebody who ends TLS in between


@contextmanager
def in_between(files: tuple[Path, Path], relay_port: int, change: Change) -> Iterator[int]:
    """A port where TLS ends with this certificate; one connection is passed on to the relay.

    What the relay says goes through ``change``, which is given whole frames.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)

    def pass_on(listening: socket.socket) -> None:
        with suppress(OSError):
            plain, _ = listening.accept()
            relay = socket.create_connection((HOST, relay_port), timeout=15)
            with (
                context.wrap_socket(plain, server_side=True) as node,
                unverified().wrap_socket(relay) as relay,
            ):
                node.settimeout(15)
                relay.sendall(node.recv(65536))
                node.sendall(change(frame_of(relay)))
                if proof := node.recv(65536):
                    relay.sendall(proof)
                    while data := relay.recv(65536):
                        node.sendall(data)

    with socket.create_server((HOST, 0)) as listening:
        listening.settimeout(15)
        thread = threading.Thread(target=pass_on, args=(listening,))
        thread.start()
        yield int(listening.getsockname()[1])
        thread.join(20)
        assert not thread.is_alive()


def frame_of(peer: ssl.SSLSocket | SSL.Connection) -> bytes:
    """The next frame, whole."""
    frame = bytearray()
    while len(frame) < HEADER_BYTES:
        frame += peer.recv(HEADER_BYTES - len(frame))
    whole = HEADER_BYTES + int.from_bytes(frame[6:HEADER_BYTES], "big")
    while len(frame) < whole:
        frame += peer.recv(whole - len(frame))
    return bytes(frame)


def naming(relay_id: bytes) -> Change:
    """Put another relay id into the Challenge."""

    def change(frame: bytes) -> bytes:
        message = pb.Message.FromString(frame[HEADER_BYTES:])
        challenge = pb.Challenge.FromString(message.message)
        challenge.relay_id = relay_id
        message.message = challenge.SerializeToString()
        return encode_frame(NET, message.SerializeToString())

    return change


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["own", "own_and_named", "stolen"])
def test_who_ends_tls_in_between_proves_nothing_for_a_node(
    kind: str, tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    """With a certificate of a trusted authority, or even with the relay's own key."""
    real = authority.issue("relay")
    serve(started, tmp_path, free_port, real)
    *files, digest = real if kind == "stolen" else authority.issue("attacker")
    change = naming(bytes.fromhex(digest)) if kind == "own_and_named" else bytes
    with in_between((files[0], files[1]), free_port, change) as port:
        node = expose(started, tmp_path, 1, port, "--ca", authority.pem)
        if kind == "own":
            told = ".*not the relay whose certificate.*; trying again in 5m"
            node.wait_for(told, stderr=True)
            assert node.end() == 0
        else:
            assert node.ended() == 1
            assert "the proof does not verify" in node.stderr
    assert node.stdout == ""


@pytest.mark.process
@pytest.mark.heavy
@pytest.mark.parametrize("trust", [("--pin", "33" * 32), ("--ca", "authority.pem")])
def test_who_shows_the_wrong_certificate_hears_nothing(
    trust: tuple[str, str], tmp_path: Path, authority: Authority, started: list[Program]
) -> None:
    """Not even a Hello: there may be no Challenge to wait for, with nodes of part A."""
    certificate, key, _ = authority.issue("attacker", host="example.org")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusted = trust[0], tmp_path / trust[1] if trust[0] == "--ca" else trust[1]
    with socket.create_server((HOST, 0)) as listening:
        listening.settimeout(15)
        node = expose(started, tmp_path, 1, listening.getsockname()[1], *trusted)
        plain, _ = listening.accept()
        with context.wrap_socket(plain, server_side=True) as attacker:
            attacker.settimeout(15)
            heard = b""
            with suppress(ConnectionResetError, ssl.SSLError):
                heard = attacker.recv(65536)
            assert heard == b""
    node.wait_for(".*shows a certificate that is .*; trying again in .*", stderr=True)
    assert node.end() == 0


# ------------------------------------------------------------- a node made by hand, on TLS


class HandMade:
    """A TLS connection of OpenSSL's, with the exporter that a proof is bound to."""

    def __init__(self, port: int) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        plain = socket.create_connection((HOST, port))
        plain.settimeout(None)  # a timeout would make the socket one that does not block
        self.tls = SSL.Connection(context, plain)
        self.tls.set_connect_state()
        self.tls.do_handshake()
        shown = self.tls.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        self.key_hash = key_hash(shown)
        self.exported = self.tls.export_keying_material(EXPORTER_LABEL, 32, b"")

    def outcome_of_proof(self, binding_type: int, binding: bytes) -> int:
        """Opcode of what the relay answers to a good proof of a new key, with this binding."""
        key, nonce = Ed25519PrivateKey.generate(), os.urandom(32)
        sender = pb.ID(net_key=key.public_key().public_bytes_raw(), address="tcp://127.0.0.1:1")
        payload = pb.Hello(version=1, client_nonce=nonce)
        hello = encode_message(NET, Opcode.HELLO, payload, sender=sender)
        self.tls.sendall(hello)
        body = frame_of(self.tls)[HEADER_BYTES:]
        challenge = pb.Challenge.FromString(pb.Message.FromString(body).message)
        assert challenge.binding_type == 1
        assert challenge.relay_id == self.key_hash
        signed = proof_input(
            *(NET, challenge.relay_id, binding_type, binding, challenge.server_nonce, nonce),
            *(sender.net_key, hello[HEADER_BYTES:], body),
        )
        proof = pb.Proof(signature=sign_proof(key, signed))
        self.tls.sendall(encode_message(NET, Opcode.PROOF, proof, sender=sender))
        return pb.Message.FromString(frame_of(self.tls)[HEADER_BYTES:]).opcode


@pytest.mark.process
@pytest.mark.heavy
def test_a_proof_is_good_for_its_own_channel_alone(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    serve(started, tmp_path, free_port, authority.issue("relay"))
    other = HandMade(free_port)
    for binding_type, binding, opcode in (
        (1, None, Opcode.WELCOME),
        (1, other.exported, Opcode.REFUSAL),
        (1, NO_BINDING, Opcode.REFUSAL),
        (0, NO_BINDING, Opcode.REFUSAL),
    ):
        node = HandMade(free_port)
        bound = node.exported if binding is None else binding
        assert node.outcome_of_proof(binding_type, bound) == opcode
    assert other.outcome_of_proof(1, other.exported) == Opcode.WELCOME


# ----------------------------------------------------------------- peers that stop reading


class NonReader:
    """A claimed node that asks and never reads; its system holds little for it."""

    def __init__(self, stack: ExitStack, port: int, number: int) -> None:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(15)
        plain.connect((HOST, port))
        self.tls = stack.enter_context(unverified().wrap_socket(plain))
        self.tls.sendall(proxy_request(number))
        frame_of(self.tls)  # the address
        self.tls.settimeout(0.3)
        asked = pb.MetricRequest(send_timestamp=1, raw_data=bytes(4_000))
        self._request = encode_message(NET, Opcode.METRIC_REQUEST, asked, sender=sender(number))

    def ask_until_not_read(self, limit_bytes: int) -> None:
        """Raises AssertionError when the relay reads on and on."""
        sent = 0
        with suppress(TimeoutError, ssl.SSLWantWriteError):
            while sent < limit_bytes:
                sent += self.tls.send(self._request)
        assert sent < limit_bytes, "all was read, and what was not taken waits in memory"


def descriptors(program: Program) -> int:
    return len(os.listdir(f"/proc/{program.process.pid}/fd"))


@pytest.mark.process
@pytest.mark.heavy
def test_t14_tls_peers_that_stop_reading_are_gone_six_seconds_after_a_close(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    """Some never answer the end of TLS, some have not read megabytes before it.

    Another connection takes each lease of these over: they are closed a second later.
    """
    files = authority.issue("relay")
    room = ("--limit", "connections-without-identity=1000")  # else the oldest of them go
    relay = serve(started, tmp_path, free_port, files, *room)
    with ExitStack() as stack:
        idle = descriptors(relay)
        silent = [
            stack.enter_context(
                unverified().wrap_socket(socket.create_connection((HOST, free_port), 15))
            )
            for _ in range(scaled(500, 50))
        ]
        for peer in silent:
            peer.sendall(bytes(HEADER_BYTES))  # of no network
        stuck = [NonReader(stack, free_port, number) for number in range(1, 5)]
        for peer in stuck:
            peer.ask_until_not_read(16 << 20)
        for number in range(1, 5):
            winner = stack.enter_context(
                unverified().wrap_socket(socket.create_connection((HOST, free_port), 15))
            )
            winner.sendall(proxy_request(number))
            frame_of(winner)
        kept = idle + 2 * len(stuck)  # the four that took over, and their ports
        assert descriptors(relay) > kept
        begun = time.monotonic()
        wait_until(lambda: descriptors(relay) <= kept, 8.0, "their sockets are closed")
        figure("the last is gone after", time.monotonic() - begun, "s")


@counts_references
@pytest.mark.process
@pytest.mark.heavy
def test_t13_over_tls_a_node_that_does_not_read_slows_nobody(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    """A million keepalives over TLS: little is held, closed in 30 s, others undisturbed."""
    pairs, frames = scaled(100, 4), scaled(1_000_000, 50_000)
    certificate, key, _ = authority.issue("relay")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key))
    listen = ("--listen", f"tls:tcp:{free_port}:interface={HOST}")
    with (
        RunningService(tmp_path, *listen, *options, lease_ports=128) as service,
        ExitStack() as stack,
    ):
        others = [stack.enter_context(GoodPair(service, 100 + n)) for n in range(pairs)]
        peer = stack.enter_context(NonReader(stack, free_port, 1).tls)
        before = service.resident_bytes
        said = keepalive(1) * 100
        sent, total = 0, frames * len(said) // 100
        peer.settimeout(0.5)
        with suppress(TimeoutError, ssl.SSLWantWriteError, ConnectionError):
            while sent < total:
                sent += peer.send(said)
        assert sent < total, "it was read without end"
        assert service.resident_bytes - before < 2 << 20
        took = sorted(pair.relay_one() for _ in range(10) for pair in others)
        figure("p99 of the others", took[len(took) * 99 // 100] * 1000, "ms")
        if full():
            assert took[len(took) * 99 // 100] < 0.1
            assert ends_unread(peer, 35), "closed in 30 s"


# ------------------------------------------------------------------- the first byte of TLS


class Above(EagerProtocol):
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def receiveRoom(self) -> int:
        return 7

    def bufferReceived(self, view: memoryview) -> None:
        self.heard.append(bytes(view))


def test_the_first_byte_of_tls_is_told_once_and_the_room_is_that_of_the_protocol_above() -> None:
    """Who begins TLS and goes on slowly has the 10 s of a slow sender, not a silent one's 60."""
    above = Above()
    transport = server_of(above)
    assert above.heard == []
    for byte in b"\x16\x03\x01":
        transport.bufferReceived(memoryview(bytes((byte,))))
    assert above.heard == [b""]
    assert transport.receiveRoom() == 7


@implementer(IOpenSSLServerConnectionCreator)
class Creator:
    """Of connections that will never get far."""

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD), None)


def server_of(above: EagerProtocol) -> TLSTransport:
    factory = tls_factory(Creator(), Factory.forProtocol(lambda: above), is_client=False)
    transport = factory.buildProtocol(None)
    assert isinstance(transport, TLSTransport)
    transport.makeConnection(StringTransport())
    return transport
