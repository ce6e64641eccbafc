"""The proof of a key covers everything, and keys of small order prove nothing."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.errors import FrameError
from proxyservice.wire.proof import (
    NO_BINDING,
    Binding,
    is_small_order,
    proof_input,
    sign_proof,
    verify_proof,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NET_KEY = KEY.public_key().public_bytes_raw()
FIELDS: dict[str, Any] = {
    "network_id": 1564141146,
    "relay_id": bytes(range(100, 132)),
    "binding_type": Binding.TLS_EXPORTER,
    "binding": bytes(range(32, 64)),
    "server_nonce": bytes(range(64, 96)),
    "client_nonce": bytes(range(200, 232)),
    "net_key": NET_KEY,
    "hello_body": b"hello body",
    "challenge_body": b"challenge body",
}
KNOWN_SIGNATURE = (
    "c69fdf39bbf0ca1d6bfe0a7bdaf8ca9b18f93d0da2e0e1dad301179f66c1edc9"
    "b360ca02eb5158df60ea08de6cea731433a615518573ba045bb3d0c174d6c003"
)
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P

LOW = [
    *("00" * 32, "01" + "00" * 31),
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    *(first + "ff" * 30 + "7f" for first in ("ec", "ed", "ee")),
]
SMALL_ORDER = [
    key[:31] + bytes((key[31] | top,)) for key in map(bytes.fromhex, LOW) for top in (0, 0x80)
]


def test_the_signed_bytes_are_known() -> None:
    signed = proof_input(**FIELDS)
    assert signed == b"".join(
        (
            b"proxyservice-auth-v1\x00\x5d\x3a\xe6\x5a\x01",
            bytes(range(100, 132)),
            b"\x01",
            bytes(range(32, 64)),
            bytes(range(64, 96)),
            bytes(range(200, 232)),
            bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"),
            hashlib.sha256(b"hello body").digest(),
            hashlib.sha256(b"challenge body").digest(),
        )
    )
    assert sign_proof(KEY, signed).hex() == KNOWN_SIGNATURE


def test_a_proof_verifies() -> None:
    signed = proof_input(**FIELDS)
    assert verify_proof(NET_KEY, sign_proof(KEY, signed), signed)
    plain = proof_input(**{**FIELDS, "binding_type": Binding.NONE, "binding": NO_BINDING})
    assert verify_proof(NET_KEY, sign_proof(KEY, plain), plain)


@given(st.sampled_from(sorted(FIELDS)), st.data())
def test_every_field_is_covered(name: str, data: st.DataObject) -> None:
    value = FIELDS[name]
    if name == "binding_type":
        other: Any = Binding.NONE
    elif isinstance(value, int):
        other = value ^ 1 << data.draw(st.integers(0, 31))
    else:
        changed = bytearray(value)
        changed[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        other = bytes(changed)
    signature = sign_proof(KEY, proof_input(**FIELDS))
    assert not verify_proof(NET_KEY, signature, proof_input(**{**FIELDS, name: other}))


@pytest.mark.parametrize("name", ["relay_id", "binding", "server_nonce", "client_nonce", "net_key"])
@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_part_of_another_length_is_no_handshake(name: str, length: int) -> None:
    with pytest.raises(FrameError):
        proof_input(**{**FIELDS, name: bytes(length)})


@pytest.mark.parametrize("kind", [2, 255])
def test_an_unknown_binding_is_no_handshake(kind: int) -> None:
    with pytest.raises(FrameError):
        proof_input(**{**FIELDS, "binding_type": kind})


@given(st.binary(min_size=1, max_size=200), st.integers(0, 511))
def test_a_changed_signature_or_another_key_is_refused(signed: bytes, bit: int) -> None:
    signature = bytearray(sign_proof(KEY, signed))
    assert verify_proof(NET_KEY, bytes(signature), signed)
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify_proof(NET_KEY, bytes(signature), signed)
    other = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(signed).digest())
    assert not verify_proof(NET_KEY, sign_proof(other, signed), signed)


@given(st.binary(max_size=64), st.binary(max_size=80))
def test_any_bytes_are_judged_without_an_exception(net_key: bytes, signature: bytes) -> None:
    assert not verify_proof(net_key, signature, b"signed")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_other_keys_than_ed25519_prove_nothing(length: int) -> None:
    key = NET_KEY[:length].ljust(length, b"\x02")
    assert not verify_proof(key, sign_proof(KEY, b"signed"), b"signed")


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_has_64_bytes(length: int) -> None:
    signature = sign_proof(KEY, b"signed")[:length].ljust(length, b"\0")
    assert not verify_proof(NET_KEY, signature, b"signed")


def test_what_is_no_point_proves_nothing() -> None:
    key = (2).to_bytes(32, "little")  # y = 2 is on no point of the curve
    assert _recovered_x(key) is None
    assert not verify_proof(key, sign_proof(KEY, b"signed"), b"signed")


def _recovered_x(key: bytes) -> int | None:
    """x of an encoded point by RFC 8032 5.1.3, None when there is none."""
    y = int.from_bytes(key, "little") % 2**255 % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return x if x * x % P == square else None


def _times_eight(key: bytes) -> tuple[int, int]:
    x, y = _recovered_x(key), int.from_bytes(key, "little") % 2**255 % P
    assert x is not None
    for _ in range(3):
        product = D * x * x * y * y % P
        x, y = (
            2 * x * y * pow(1 + product, -1, P) % P,
            (y * y + x * x) * pow(1 - product, -1, P) % P,
        )
    return x, y


@pytest.mark.parametrize("key", SMALL_ORDER, ids=bytes.hex)
def test_a_key_of_small_order_is_refused(key: bytes) -> None:
    assert _times_eight(key) == (0, 1), "the order of this point divides 8"
    assert is_small_order(key)
    assert not verify_proof(key, FORGED, b"signed")


def test_there_are_14_of_them_and_ordinary_keys_are_none() -> None:
    assert len(set(SMALL_ORDER)) == 14
    assert not is_small_order(NET_KEY)
    assert not is_small_order(bytes(31))
    assert not is_small_order(b"")


@given(st.binary(min_size=32, max_size=32))
def test_small_order_is_exactly_what_the_curve_says(key: bytes) -> None:
    if _recovered_x(key) is not None:
        assert is_small_order(key) == (_times_eight(key) == (0, 1))


FORGED = b"\x01" + bytes(63)
"""R is the neutral point, S is 0: made without any secret."""


def test_the_library_alone_would_accept_a_forgery() -> None:
    accepted = 0
    for number in range(64):
        signed = b"%d" % number
        for key in SMALL_ORDER:
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(FORGED, signed)
            except InvalidSignature:
                continue
            accepted += 1
            assert not verify_proof(key, FORGED, signed)
    assert accepted > 64, "if the library refuses all of them the check is not needed"
