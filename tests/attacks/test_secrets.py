"""Canaries in everything that is secret, or a peer's own: none in any log (T28)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyservice.errors import RefusedError
from proxyservice.node.keys import load_key
from proxyservice.node.tokens import make_token, write_token
from proxyservice.server import tokens as known_tokens
from proxyservice.server.tokens import Tokens
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import encode_frame
from tests.attacks.kit import NET, closed, drained, proxy_request, register, sender
from tests.attacks.running import RunningService
from tests.node.processes import EchoServer, Program, visit
from tests.server.certificates import Authority, expose

CANARY = b"canary-5f1e9a77c0ffee"
"""In what peers say: payloads, names, and what is no message at all."""


def spellings(secret: bytes) -> Iterator[str]:
    """As it may come to stand in a line of text."""
    yield secret.hex()
    yield base64.b64encode(secret).decode().rstrip("=")[:-1]
    yield base64.urlsafe_b64encode(secret).decode().rstrip("=")[:-1]
    yield repr(secret)[2:-1]
    yield secret.decode("latin-1")


def what_peers_say() -> Iterator[bytes]:
    """Good and bad frames, each with the canary in a place of its own."""
    text = CANARY.decode()
    yield CANARY * 10
    yield encode_frame(NET, CANARY)
    yield encode_frame(NET, CANARY, flag=1, algorithm=3)
    yield encode_message(NET, 0, CANARY, sender=sender(9))
    yield encode_message(NET, Opcode.PROXY_REQUEST, CANARY, sender=sender(9))
    who = pb.ID(net_key=CANARY, address=text, connection_id=CANARY * 4)
    yield encode_message(NET, Opcode.PROXY_REQUEST, pb.ProxyRequest(), sender=who)
    yield encode_message(NET, Opcode.HELLO, pb.Hello(version=1, client_nonce=CANARY), sender=who)
    request = pb.ProxyRequest(origin_address=text * 60)
    yield encode_message(NET, Opcode.PROXY_REQUEST, request, sender=sender(9))
    yield encode_message(NET, Opcode.PROXY_REQUEST, sender=sender(9), signature=CANARY * 3)
    metric = pb.MetricRequest(raw_data=CANARY)
    yield proxy_request(9) + encode_message(NET, Opcode.METRIC_REQUEST, metric, sender=sender(9))


@pytest.mark.process
def test_t28_no_canary_is_in_any_log(
    tmp_path: Path, authority: Authority, started: list[Program], free_port: int
) -> None:
    """Keys, tokens, the relay's secret, payloads of nodes and visitors, frames that are none."""
    certificate, key, _ = authority.issue("relay")
    token, line = make_token("alice", None, 0.0)
    (tmp_path / "tokens").write_text(line + "\n")
    write_token(tmp_path / "token", token)
    tls = ("--listen", f"tls:tcp:{free_port}:interface=127.0.0.1")
    with_files = ("--tls-cert", str(certificate), "--tls-key", str(key))
    more = ("--token-file", str(tmp_path / "tokens"), "--claimed", "allow")
    with RunningService(tmp_path, *tls, *with_files, *more) as service, EchoServer() as echo:
        trust = ("--ca", authority.pem, "--token", tmp_path / "token")
        node = expose(started, tmp_path, echo.port, free_port, *trust)
        address = node.wait_for(r"exposed \d+ at (\S+)")[1]
        assert visit(address, CANARY) == CANARY
        claimed, port = register(service, 1)
        for said in what_peers_say():
            for target in (service.port, port):
                with service.connect(target) as peer:
                    peer.sendall(said)
                    peer.shutdown(1)
                    assert drained(peer)
        with service.connect() as stranger:
            stranger.sendall(CANARY * 1000)
            assert closed(stranger)
        claimed.close()
        assert node.end() == 0
        log = service.log + node.stdout + node.stderr
    assert log.count("refused ") > 10, "they were seen"
    node_key = load_key(node.directory / "key")
    secrets = {
        "a payload": CANARY,
        "the token": token.seed,
        "the node's key": node_key.private_bytes_raw(),
        "the relay's secret": (tmp_path / "state" / "relay.secret").read_bytes(),
        "the certificate's key": key.read_bytes().splitlines()[1],
    }
    for what, secret in secrets.items():
        for spelling in spellings(secret):
            assert spelling not in log, what


def test_t28_an_unknown_token_takes_as_much_checking_as_a_wrong_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is answered with the same words; so nobody learns which identifiers there are."""
    token, line = make_token("alice", None, 0.0)
    (tmp_path / "tokens").write_text(line)
    tokens, checked, said = Tokens.read(tmp_path / "tokens"), [], []
    real = known_tokens.verify_proof

    def counting(key: bytes, signature: bytes, signed: bytes) -> bool:
        checked.append(key)
        return real(key, signature, signed)

    monkeypatch.setattr(known_tokens, "verify_proof", counting)
    for token_id in (token.id, b"unknown!"):
        proof = pb.Proof(token_id=token_id, token_signature=bytes(64))
        with pytest.raises(RefusedError) as refused:
            tokens.verify(proof, b"signed", 0.0)
        said.append((refused.value.code, refused.value.reason))
    assert said[0] == said[1]
    assert checked == [tokens.known[token.id].public_key, known_tokens.NOBODYS_KEY]
