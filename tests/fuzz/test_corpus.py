"""The committed corpus without the fuzzer: nothing in it does harm, and it finds what is broken."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxyservice.net import stream_switch, turns
from proxyservice.node import connection
from proxyservice.streams import multiplexer, windows
from proxyservice.streams.state import TABLE, Act, Event, State
from proxyservice.wire import (
    envelope,
    framing,
    lzw,
    parsing,
    proof,
    proxy_header,
    relay_check,
    relay_rules,
    stream_frames,
)
from tests.fuzz import TARGETS

CORPUS = Path(__file__).with_name("corpus")
LARGEST_BYTES = 500_000
"""Of all files together: what is committed stays a moment's work to fetch and to run."""


def inputs(target: str) -> list[bytes]:
    files = sorted((CORPUS / target).iterdir())
    return [*import_module(f"tests.fuzz.{target}").seeds(), *(file.read_bytes() for file in files)]


def run(target: str) -> None:
    check: Callable[[bytes], None] = import_module(f"tests.fuzz.{target}").check
    for data in inputs(target):
        try:
            check(data)
        except Exception as error:
            raise AssertionError(f"{target} fails with {data.hex()}") from error


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_finds_nothing(target: str) -> None:
    run(target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 40, bytes(range(256))])
def test_any_input_is_one(target: str, data: bytes) -> None:
    import_module(f"tests.fuzz.{target}").check(data)


def test_the_corpus_is_small() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    sizes = [file.stat().st_size for file in CORPUS.rglob("*") if file.is_file()]
    assert sum(sizes) < LARGEST_BYTES


# ------------------------------------------------------- what is broken on purpose is found

Patch = pytest.MonkeyPatch


def frames_lose_what_follows_a_tail(patch: Patch) -> None:
    patch.setattr(framing.FrameDecoder, "_grow_tail", lambda self, view: -1)


def frames_forget_the_limit(patch: Patch) -> None:
    patch.setattr(framing.FrameDecoder, "allow_streams", _unlimited)


def _unlimited(self: Any, max_payload_bytes: int) -> None:
    self._max_payload_bytes, self._max_any_bytes = max_payload_bytes, 1 << 32


def messages_are_not_caught(patch: Patch) -> None:
    patch.setattr(parsing, "FrameError", ZeroDivisionError)


def messages_are_not_verified(patch: Patch) -> None:
    patch.setattr(envelope, "verify", lambda *parts: True)


def credit_is_counted_twice(patch: Patch) -> None:
    patch.setattr(windows.CreditBudget, "resize", lambda self, n_bytes: None)


def gone_streams_keep_their_window(patch: Patch) -> None:
    patch.setattr(windows.ReceiveWindow, "close", lambda self: None)


def resets_pile_up(patch: Patch) -> None:
    patch.setattr(multiplexer.Multiplexer, "_keep_untold", lambda self, stream: None)


def ends_are_dropped(patch: Patch) -> None:
    table = [[list(entry) for entry in row] for row in TABLE]
    table[State.OPEN][Event.END][1] = Act.DROP
    patch.setattr(multiplexer, "TABLE", table)


def local_ends_are_not_told(patch: Patch) -> None:
    patch.setattr(stream_switch, "State", SimpleNamespace(GONE=None))


def lengths_are_cut_off(patch: Patch) -> None:
    varint = stream_frames.varint
    patch.setattr(stream_frames, "varint", lambda value: varint(value & 0x3FFF))


def widths_grow_early(patch: Patch) -> None:
    patch.setattr(lzw, "_EOF", 258)


def the_bound_is_forgotten(patch: Patch) -> None:
    decode = lzw.decode
    patch.setattr(lzw, "decode", lambda data, limit_bytes: decode(data, 1 << 30))


def keys_of_small_order_prove(patch: Patch) -> None:
    patch.setattr(proof, "_SMALL_ORDER", frozenset())


def bodies_are_not_signed(patch: Patch) -> None:
    patch.setattr(proof, "sha256", lambda body: sha256())


def the_short_way_allows_any_opcode(patch: Patch) -> None:
    relay_rules.common_ending.cache_clear()
    patch.setattr(relay_check, "common_ending", relay_rules.common_ending.__wrapped__)
    patch.setattr(relay_rules, "FORBIDDEN_OPCODES", frozenset((0,)))


def a_sender_of_one_is_good_for_all(patch: Patch) -> None:
    patch.setattr(relay_check, "usual_sender", lambda body: b"\x12\0")


def ports_of_a_header_are_not_checked(patch: Patch) -> None:
    patch.setattr(proxy_header, "_end", lambda version, host, port: (str(version(host)), port))


def headers_of_any_length_are_read(patch: Patch) -> None:
    patch.setattr(proxy_header, "HEADER_LIMIT_BYTES", 1 << 17)


def a_relay_may_say_anything(patch: Patch) -> None:
    for module in (connection, envelope):
        patch.setattr(module, "check_bounds", lambda message: None)


def what_waits_has_no_turn(patch: Patch) -> None:
    patch.setattr(turns.Turns, "_serve", lambda self: None)


MUTANTS = [
    ("frames", frames_lose_what_follows_a_tail),
    ("frames", frames_forget_the_limit),
    ("messages", messages_are_not_caught),
    ("messages", messages_are_not_verified),
    ("multiplexer", credit_is_counted_twice),
    ("multiplexer", gone_streams_keep_their_window),
    ("multiplexer", resets_pile_up),
    ("streams", ends_are_dropped),
    ("streams", local_ends_are_not_told),
    ("streams", lengths_are_cut_off),
    ("lzw", widths_grow_early),
    ("lzw", the_bound_is_forgotten),
    ("proof", keys_of_small_order_prove),
    ("proof", bodies_are_not_signed),
    ("relay", the_short_way_allows_any_opcode),
    ("relay", a_sender_of_one_is_good_for_all),
    ("haproxy", ports_of_a_header_are_not_checked),
    ("haproxy", headers_of_any_length_are_read),
    ("node", a_relay_may_say_anything),
    ("node", what_waits_has_no_turn),
]


@pytest.mark.parametrize(
    ("target", "mutant"), MUTANTS, ids=lambda part: getattr(part, "__name__", part)
)
def test_what_is_broken_is_found(target: str, mutant: Callable[[Patch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        with pytest.raises(AssertionError, match=f"{target} fails with"):
            run(target)
