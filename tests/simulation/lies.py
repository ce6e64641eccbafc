"""What a bad relay does to a node. Each is done to one of its connections, at some moment."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.bounds import DAY_MS
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import DEFAULT_NETWORK_ID, HEADER
from proxyservice.wire.stream_frames import stream_control_frame, stream_data_prefix

if TYPE_CHECKING:
    from tests.simulation.scripted_relay import RelayConnection

MOMENTS = ("accept", Opcode.HELLO, Opcode.PROOF, Opcode.PROXY_REQUEST, Opcode.KEEPALIVE)
LEASES = 4
CODES = [code for code in pb.RefusalCode.values() if code != pb.REFUSAL_SUPERSEDED] + [99]
HINTS_MS = (0, 1, 5000, 3600_000, DAY_MS, DAY_MS + 1, (1 << 64) - 1)


def silence(at: RelayConnection) -> None:
    at.is_mute = True


def closes(at: RelayConnection) -> None:
    at.random.choice((at.close, at.reset, at.end))()


def garbage(at: RelayConnection) -> None:
    at.write(at.random.randbytes(at.random.choice((1, 9, 400, 30_000))))


def half_a_frame(at: RelayConnection) -> None:
    frame = encode_message(DEFAULT_NETWORK_ID, Opcode.KEEPALIVE_RESPONSE, b"hm", sender=pb.ID())
    at.write(frame[: at.random.randrange(1, len(frame))])
    at.random.choice((silence, closes))(at)


def an_endless_frame(at: RelayConnection) -> None:
    at.write(HEADER.pack(DEFAULT_NETWORK_ID, 0, 0, at.random.choice((1 << 20, (1 << 32) - 1))))


def unknown_opcodes(at: RelayConnection) -> None:
    for _ in range(at.random.choice((1, 300))):
        at.say(at.random.choice((0, 9, 62, 63, 77, 1 << 31)), at.random.randbytes(9))


def unreadable_payloads(at: RelayConnection) -> None:
    opcode = at.random.choice([int(one) for one in Opcode])
    if opcode != Opcode.REFUSAL:  # which might say that another took over
        at.say(opcode, at.random.randbytes(20), at.random.randrange(9))


def other_ids(at: RelayConnection) -> None:
    """Answers to what was not asked, frames of streams that are none."""
    grant = pb.ProxyResponse(origin_address="nobody's", proxy_address="h:1")
    at.say(Opcode.PROXY_RESPONSE, grant, at.random.choice((0, 5, 1 << 63)))
    opcode = at.random.choice((Opcode.STREAM_WINDOW, Opcode.STREAM_END, Opcode.STREAM_RESET))
    at.control(opcode, at.random.choice((0, 1, 4, 1 << 63)))


def absurd_grants(at: RelayConnection) -> None:
    address = at.random.choice(("", "a:1\nb", "[::1", "h" * 400 + ":1", "h:99999", ":0"))
    grant = pb.ProxyResponse(origin_address="calm", proxy_address=address, generation=1 << 63)
    for nonce in range(LEASES + 1):
        at.say(Opcode.PROXY_RESPONSE, grant, nonce)


def another_identity(at: RelayConnection) -> None:
    challenge = pb.Challenge(
        version=at.random.choice((1, 1, 2)), server_nonce=bytes(32), relay_id=b"?" * 32
    )
    at.say(Opcode.CHALLENGE, challenge)


def absurd_welcome(at: RelayConnection) -> None:
    keepalive_ms = at.random.choice((0, 1, DAY_MS, (1 << 32) - 1))
    features = at.random.choice((0, (1 << 64) - 1))
    at.say(Opcode.WELCOME, pb.Welcome(features=features, keepalive_ms=keepalive_ms))


def nonsense_visitors(at: RelayConnection) -> None:
    for _ in range(at.random.choice((1, 40))):
        at.streams += at.random.choice((1, 1, 1, 1, 1, 0, 7))
        opening = pb.StreamOpen(
            visitor_address=at.random.choice(("", "nobody", "h:1", "[::1]:9", "h:99999")),
            proxy_address=at.random.choice(("h:2", "here", "")),
            origin_address=at.random.choice(("calm", "wild", "rude", "?")),
            initial_window=at.random.choice((0, 1, 9000, (1 << 31) - 1, (1 << 32) - 1)),
            server_window=at.random.choice((at.window_bytes, at.window_bytes, 0, 1, 1 << 30)),
        )
        at.say(Opcode.STREAM_OPEN, opening, at.streams)


def credit_games(at: RelayConnection) -> None:
    at.streams += 1
    opening = pb.StreamOpen(
        visitor_address="198.51.100.9:1",
        proxy_address="h:2",
        origin_address="calm",
        initial_window=1,
        server_window=at.window_bytes,
    )
    at.say(Opcode.STREAM_OPEN, opening, at.streams)
    for _ in range(at.random.choice((1, 3, 200))):
        credit = at.random.choice((0, 1, (1 << 31) - 1, (1 << 32) - 1))
        window = pb.StreamWindow(credit=credit).SerializeToString()
        at.write(stream_control_frame(DEFAULT_NETWORK_ID, Opcode.STREAM_WINDOW, at.streams, window))
    size = at.random.choice((0, 1000, at.window_bytes + 1))
    at.write(stream_data_prefix(DEFAULT_NETWORK_ID, at.streams, size) + bytes(size))


def drains(at: RelayConnection) -> None:
    """Again and again, on each connection."""
    for _ in range(at.random.choice((1, 20))):
        hint = pb.Draining(
            reconnect_in_ms=at.random.choice(HINTS_MS), try_for_ms=at.random.choice(HINTS_MS)
        )
        at.say(Opcode.DRAINING, hint)


def refuses(at: RelayConnection) -> None:
    code: Any = at.random.choice(CODES)
    refusal = pb.Refusal(code=code, reason="no", retry_after_ms=at.random.choice(HINTS_MS))
    nonces = at.random.choice(([0], range(1, LEASES + 1), [1], [1 << 60]))
    for nonce in nonces:
        at.say(Opcode.REFUSAL, refusal, nonce)


LIES: list[Callable[[RelayConnection], None]] = [
    *(silence, closes, garbage, half_a_frame, an_endless_frame, unknown_opcodes),
    *(unreadable_payloads, other_ids, absurd_grants, another_identity, absurd_welcome),
    *(nonsense_visitors, credit_games, drains, refuses, refuses, refuses),
]


def lies_of(pick: Random) -> list[Callable[[RelayConnection], None]]:
    """One, or a few in a row."""
    return pick.sample(LIES, pick.choice((1, 1, 3)))
