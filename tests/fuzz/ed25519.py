"""Verification of Ed25519 by RFC 8032 without the library that the project uses: slow, plain."""

from __future__ import annotations

from hashlib import sha512
from typing import Final

P: Final = 2**255 - 19
ORDER: Final = 2**252 + 27742317777372353535851937790883648493
D: Final = -121665 * pow(121666, -1, P) % P

Point = tuple[int, int, int]
"""Projective: x / z, y / z."""

NEUTRAL: Final = (0, 1, 1)


def decoded(encoding: bytes) -> Point | None:
    """A point of 5.1.3, also where y is not reduced; None when there is none."""
    y = int.from_bytes(encoding, "little") % 2**255 % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return (-x % P if x & 1 != encoding[31] >> 7 else x), y, 1


def added(one: Point, other: Point) -> Point:
    (x1, y1, z1), (x2, y2, z2) = one, other
    z, xx, yy = z1 * z2 % P, x1 * x2 % P, y1 * y2 % P
    zz, product = z * z % P, D * xx * yy % P
    less, more = zz - product, zz + product
    x = z * less * ((x1 + y1) * (x2 + y2) - xx - yy)
    return x % P, z * more * (yy + xx) % P, less * more % P


def times(point: Point, factor: int) -> Point:
    total = NEUTRAL
    while factor:
        if factor & 1:
            total = added(total, point)
        point, factor = added(point, point), factor >> 1
    return total


def same(one: Point, other: Point) -> bool:
    (x1, y1, z1), (x2, y2, z2) = one, other
    return not ((x1 * z2 - x2 * z1) % P or (y1 * z2 - y2 * z1) % P)


BASE: Final = decoded((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def has_small_order(key: bytes) -> bool:
    """Whether eight times this point is nothing."""
    point = decoded(key)
    return point is not None and same(times(point, 8), NEUTRAL)


def is_valid(key: bytes, signature: bytes, signed: bytes) -> bool:
    """Whether S B = R + h A, with S below the order of B."""
    scalar = int.from_bytes(signature[32:], "little")
    if len(key) != 32 or len(signature) != 64 or scalar >= ORDER:
        return False
    public, commitment = decoded(key), decoded(signature[:32])
    if public is None or commitment is None or BASE is None:
        return False
    digest = sha512(signature[:32] + key + signed).digest()
    hashed = times(public, int.from_bytes(digest, "little") % ORDER)
    return same(times(BASE, scalar), added(commitment, hashed))
