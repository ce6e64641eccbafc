"""Proofs: nothing is accepted but what the owner of a key signed, over every part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.errors import FrameError
from proxyservice.wire.proof import (
    Binding,
    is_small_order,
    proof_input,
    sign_proof,
    verify_proof,
)
from tests.fuzz.ed25519 import has_small_order, is_valid
from tests.fuzz.script import Script

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NET_KEY = KEY.public_key().public_bytes_raw()
PARTS: dict[str, Any] = {
    "network_id": 1564141146,
    "relay_id": bytes(range(100, 132)),
    "binding_type": int(Binding.TLS_EXPORTER),
    "binding": bytes(range(32, 64)),
    "server_nonce": bytes(range(64, 96)),
    "client_nonce": bytes(range(200, 232)),
    "net_key": NET_KEY,
    "hello_body": b"hello body",
    "challenge_body": b"challenge body",
}
SIGNED = proof_input(**PARTS)
SIGNATURE = sign_proof(KEY, SIGNED)


def check(data: bytes) -> None:
    script = Script(data)
    (check_anything if script.number() & 1 else check_changes)(script)


def check_changes(script: Script) -> None:
    """Change parts and signature of a good proof: it is good as long as nothing differs."""
    parts, signature = dict(PARTS), SIGNATURE
    while script:
        name = script.choice([*PARTS, "signature"])
        if name == "signature":
            signature = changed(signature, script)
        else:
            parts[name] = changed(parts[name], script)
    try:
        signed = proof_input(**parts)
    except FrameError:
        assert parts != PARTS
        return
    same = parts == PARTS
    assert (signed == SIGNED) == same
    assert verify_proof(parts["net_key"], signature, signed) == (same and signature == SIGNATURE)


def changed(value: Any, script: Script) -> Any:
    """Some bits, or some bytes in another's place."""
    at, kind = script.number(), script.number() % 4
    if isinstance(value, int):
        return (value ^ kind << at % 30) & 0xFFFFFFFF
    at %= len(value) + 1
    if kind == 0:
        return value[:at] + script.take(1) + value[at + 1 :]
    if kind == 1:
        return value[:at] + script.take(2) + value[at:]
    if kind == 2:
        return value[:at] + value[at + 1 :]
    return value[at:] + value[:at]


def check_anything(script: Script) -> None:
    """Any key, signature and text: what is accepted is valid by the curve's own arithmetic."""
    net_key, signature = script.take(32), script.take(64)
    signed = script.rest()
    if len(net_key) == 32:
        assert is_small_order(net_key) == has_small_order(net_key)
    if verify_proof(net_key, signature, signed):
        assert not has_small_order(net_key)
        assert is_valid(net_key, signature, signed)


def seeds() -> Iterator[bytes]:
    yield b"\0"
    for number in range(len(PARTS) + 1):
        for kind in range(4):
            yield bytes((0, number, 5, kind, 7, 7))
    yield b"\1" + NET_KEY + SIGNATURE + SIGNED
    no_secret = b"\1" + bytes(63)  # R is the neutral point, S is 0
    for low in (b"\0" * 32, b"\1".ljust(32, b"\0"), b"\xec" + b"\xff" * 30 + b"\x7f"):
        for top in (0, 0x80):
            yield b"\1" + low[:31] + bytes((low[31] | top,)) + no_secret + b"text"
    eighth = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
    yield b"\1" + bytes.fromhex(eighth) + no_secret + b"text"
