"""Runs of good frames: the same bytes whatever the pieces they come in, and bounded memory."""

from __future__ import annotations

import gc
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.compression import compress
from proxyservice.wire.framing import HEADER, HEADER_BYTES, encode_frame
from proxyservice.wire.relay_check import READ_BYTES, RelayScanner
from proxyservice.wire.spare_buffers import KEPT_BUFFERS, KEPT_BYTES, SpareBuffers
from tests.conftest import VECTORS
from tests.traced import traced_memory
from tests.wire.bodies import NET, SENDER, odd_body, usual_body
from tests.wire.relay_plain import expected

LIMIT = 1 << 26
BAD = [raw for name, entry in VECTORS.items() if name.startswith("bad_") and "udp" not in name
       for raw in (bytes.fromhex(entry["hex"]),)]  # fmt: skip


def good_frames(random: Random, count: int, largest_bytes: int = 6000) -> list[bytes]:
    """Frames that are to be relayed, odd ones among them, with every compress info."""
    frames = []
    while len(frames) < count:
        body = odd_body(random) if random.random() < 0.3 else usual_body(random)
        if random.random() < 0.2:
            body = usual_body(random, random.randrange(largest_bytes))
        flag, algorithm = random.choice((0, 0, 0, 1, 7, 255)), random.choice((0, 1, 2, 3, 4, 5, 9))
        if flag == 1 and algorithm in (2, 3, 4):
            body = bytes(compress(algorithm, body))
        elif not expected(body) or (flag == 1 and algorithm == 9):
            continue
        frames.append(encode_frame(NET, body, flag=flag, algorithm=algorithm))
    return frames


def scanned(scanner: RelayScanner, data: bytes, cuts: list[int]) -> bytes:
    """Feed `data` in pieces of these sizes, then the rest."""
    got, pos = bytearray(), 0
    for size in [*cuts, len(data)]:
        for run in scanner.feed(data[pos : pos + size]):
            got += run
        pos += size
    return bytes(got)


@given(st.integers(0, 2**32), st.lists(st.integers(1, 3000), max_size=30))
def test_what_leaves_equals_what_came(seed: int, cuts: list[int]) -> None:
    frames = good_frames(Random(seed), 12)
    data = b"".join(frames)
    scanner = RelayScanner(NET, LIMIT)
    assert scanned(scanner, data, cuts) == data
    assert scanner.buffered_bytes == 0


def test_one_byte_at_a_time_every_frame_leaves_with_its_last_byte() -> None:
    scanner = RelayScanner(NET, LIMIT)
    for frame in good_frames(Random(1), 40, largest_bytes=700):
        for at, byte in enumerate(frame[:-1]):
            assert not list(scanner.feed(bytes((byte,))))
            assert scanner.buffered_bytes == at + 1
        assert [bytes(run) for run in scanner.feed(frame[-1:])] == [frame]
        assert scanner.buffered_bytes == 0


@given(st.integers(0, 2**32), st.binary(min_size=1, max_size=9), st.integers(1, 500))
def test_trailing_bytes_wait(seed: int, trailing: bytes, cut: int) -> None:
    data = b"".join(good_frames(Random(seed), 3))
    scanner = RelayScanner(NET, LIMIT)
    assert scanned(scanner, data + trailing, [cut]) == data
    assert scanner.buffered_bytes == len(trailing)


def test_all_frames_of_one_read_are_one_run() -> None:
    data = b"".join(good_frames(Random(2), 50))
    assert [bytes(run) for run in RelayScanner(NET, LIMIT).feed(data)] == [data]


@pytest.mark.parametrize("bad", BAD, ids=lambda raw: raw[:16].hex())
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 900), max_size=8))
def test_a_bad_frame_ends_it_after_the_good_ones(bad: bytes, seed: int, cuts: list[int]) -> None:
    good = b"".join(good_frames(Random(seed), 3))
    scanner, got, pos = RelayScanner(NET, LIMIT), bytearray(), 0
    with pytest.raises(FrameError):  # noqa: PT012 - what leaves before it counts
        for size in [*cuts, len(good + bad)]:
            for run in scanner.feed((good + bad)[pos : pos + size]):
                got += run
            pos += size
    assert got == good
    assert scanner.buffered_bytes == 0
    with pytest.raises(FrameError):
        list(scanner.feed(good))


@pytest.mark.parametrize(
    "header", [(NET + 1, 10), (NET, 0), (NET, LIMIT + 1), (NET, 0xFFFFFFFF), (0, 10)]
)
def test_a_header_is_judged_before_its_body_is_kept(header: tuple[int, int]) -> None:
    network, length = header
    scanner = RelayScanner(NET, LIMIT)
    assert not list(scanner.feed(HEADER.pack(network, 0, 0, length)[:-1]))
    with pytest.raises(FrameError):
        list(scanner.feed(HEADER.pack(network, 0, 0, length)[-1:]))
    assert scanner.buffered_bytes == 0


# ---------------------------------------------------------------------- memory


class CountedBuffers(SpareBuffers):
    """Knows what is lent now."""

    def __init__(self) -> None:
        super().__init__()
        self.lent_bytes = 0
        self.made = 0

    def take(self, at_least_bytes: int) -> bytearray:
        before = len(self._spare)
        buffer = super().take(at_least_bytes)
        self.made += len(self._spare) == before
        self.lent_bytes += len(buffer)
        return buffer

    def give_back(self, buffer: bytearray) -> None:
        self.lent_bytes -= len(buffer)
        super().give_back(buffer)


def receive(scanner: RelayScanner, data: bytes, most: int = 1 << 30) -> tuple[bytes, int]:
    """One read of the kernel's: what fits into the room, and no more; how much it took."""
    room = scanner.room()
    count = min(len(room), len(data), most)
    room[:count] = data[:count]
    return b"".join(map(bytes, scanner.received(count))), count


@pytest.mark.parametrize("size", [64, 1024, 20_000, 65536, 300_000, 1 << 20, 5 << 20])
@pytest.mark.parametrize("most", [1 << 30, 100_000, 1447])
def test_reads_into_the_room(size: int, most: int) -> None:
    frames = [encode_frame(NET, usual_body(Random(n), size)) for n in range(3)]
    data, got, pos = b"".join(frames * 2), bytearray(), 0
    buffers = CountedBuffers()
    scanner = RelayScanner(NET, LIMIT, spare=buffers)
    while pos < len(data):
        scanner.room()
        frame = size + 500 if size + 500 <= KEPT_BYTES else 0  # one may be expected whole
        assert buffers.lent_bytes <= 4 * max(3 * READ_BYTES // 2, scanner.buffered_bytes, frame)
        run, count = receive(scanner, data[pos : pos + 8 * READ_BYTES], most)
        got += run
        pos += count
        assert scanner.buffered_bytes + len(got) == pos
    assert got == data
    assert buffers.lent_bytes == 0


@pytest.mark.parametrize("size", [30_000, 65536, 1 << 20])
def test_reads_of_large_frames_end_where_frames_do(size: int) -> None:
    frame = encode_frame(NET, usual_body(Random(1), size))
    endless = frame * (3 * READ_BYTES // len(frame) + 3)
    scanner = RelayScanner(NET, LIMIT, spare=(buffers := CountedBuffers()))
    pos = 0
    for turn in range(12):
        _, count = receive(scanner, endless[pos:])
        pos = (pos + count) % len(frame)
        if turn > 3:
            assert scanner.buffered_bytes == 0, "a beginning had to be kept"
    assert buffers.made <= 4


def test_a_bad_frame_gives_the_memory_back() -> None:
    buffers = CountedBuffers()
    scanner = RelayScanner(NET, LIMIT, spare=buffers)
    with pytest.raises(FrameError):
        list(scanner.feed(BAD[0] * 1000))
    assert buffers.lent_bytes == 0


def test_the_end_gives_the_memory_back() -> None:
    buffers = CountedBuffers()
    scanner = RelayScanner(NET, LIMIT, spare=buffers)
    assert not list(scanner.feed(encode_frame(NET, bytes(100_000))[:50_000]))
    assert buffers.lent_bytes > 0
    scanner.close()
    assert buffers.lent_bytes == scanner.buffered_bytes == 0


def test_an_announced_frame_takes_no_memory() -> None:
    buffers = CountedBuffers()
    scanner = RelayScanner(NET, LIMIT, spare=buffers)
    assert not list(scanner.feed(HEADER.pack(NET, 0, 0, LIMIT) + bytes(1000)))
    assert buffers.lent_bytes == 0
    assert scanner.buffered_bytes == HEADER_BYTES + 1000
    assert scanner.unfinished_frame_bytes == HEADER_BYTES + LIMIT


def test_a_large_buffer_is_not_kept_for_a_small_beginning() -> None:
    large, small = (encode_frame(NET, usual_body(Random(1), size)) for size in (3 << 20, 30_000))
    buffers = CountedBuffers()
    scanner = RelayScanner(NET, LIMIT, spare=buffers)
    assert b"".join(map(bytes, scanner.feed(large))) == large
    assert len(scanner.room()) == len(large)
    run, _ = receive(scanner, (small * 2)[:-1])
    assert run == small
    assert scanner.buffered_bytes == len(small) - 1
    assert buffers.lent_bytes <= 4 * READ_BYTES
    assert receive(scanner, small[-1:])[0] == small


def test_scanners_that_take_turns_share_their_memory() -> None:
    buffers = CountedBuffers()
    scanners = [RelayScanner(NET, LIMIT, spare=buffers) for _ in range(50)]
    data = b"".join(good_frames(Random(3), 8, largest_bytes=100))
    for _ in range(3):
        for scanner in scanners:
            run, count = receive(scanner, data)
            assert run == data[: len(run)]
            assert count == len(data)
    assert buffers.made == 1


def test_no_more_buffers_are_kept_than_are_useful() -> None:
    buffers = SpareBuffers()
    for size in range(10, 10 + 3 * KEPT_BUFFERS):
        buffers.give_back(bytearray(size))
    buffers.give_back(bytearray(KEPT_BYTES + 1))
    assert [len(buffer) for buffer in buffers._spare] == [18, 19, 20, 21]
    assert len(buffers.take(18)) == 21
    assert len(buffers.take(21)) == 21
    assert len(buffers.take(9)) == 18, "at most twice as long"
    assert len(buffers.take(9)) == 9


# ------------------------------------------------------------------ compressed


GOOD = pb.Message(message=bytes(500), sender=SENDER, opcode=1000, netID=NET).SerializeToString()
FORGED = pb.Message(message=bytes(500), sender=SENDER, opcode=9, netID=NET).SerializeToString()


def relays(body: bytes, algorithm: int, flag: int = 1, inflate_check_bytes: int = 0) -> bool:
    scanner = RelayScanner(NET, LIMIT, inflate_check_bytes)
    frame = encode_frame(NET, body, flag=flag, algorithm=algorithm)
    try:
        return [bytes(run) for run in scanner.feed(frame)] == [frame]
    except FrameError:
        return False


@pytest.mark.parametrize("algorithm", [0, 1, 5])
def test_flagged_but_plain_bodies_are_checked(algorithm: int) -> None:
    assert relays(GOOD, algorithm)
    assert not relays(FORGED, algorithm)


@pytest.mark.parametrize("flag", [0, 2, 3, 128, 255])
@pytest.mark.parametrize("algorithm", [0, 1, 2, 3, 4, 5, 6, 255])
def test_only_flag_1_means_compressed(flag: int, algorithm: int) -> None:
    assert relays(GOOD, algorithm, flag)
    assert not relays(FORGED, algorithm, flag)


@pytest.mark.parametrize("algorithm", [2, 3, 4])
def test_compressed_bodies_pass_unread_unless_they_are_to_be_inflated(algorithm: int) -> None:
    good, forged = (bytes(compress(algorithm, body)) for body in (GOOD, FORGED))
    assert relays(good, algorithm)
    assert relays(forged, algorithm), "documented as the remaining risk"
    assert relays(good, algorithm, inflate_check_bytes=4096)
    assert not relays(forged, algorithm, inflate_check_bytes=4096)
    assert relays(forged, algorithm, inflate_check_bytes=len(forged) - 1), "larger: unread"
    bomb = bytes(compress(algorithm, bytes(100_000)))
    assert not relays(bomb, algorithm, inflate_check_bytes=4096)
    assert relays(bomb, algorithm)


@pytest.mark.parametrize("algorithm", [2, 3])
def test_a_known_sender_does_not_excuse_a_body_that_is_not_compressed(algorithm: int) -> None:
    scanner = RelayScanner(NET, LIMIT)
    assert list(scanner.feed(encode_frame(NET, GOOD)))
    with pytest.raises(FrameError):
        list(scanner.feed(encode_frame(NET, GOOD, flag=1, algorithm=algorithm)))


@pytest.mark.parametrize("algorithm", [6, 7, 255])
def test_unknown_algorithms_are_refused(algorithm: int) -> None:
    assert not relays(GOOD, algorithm)


@pytest.mark.parametrize(
    ("algorithm", "start", "good"),
    [
        (2, "1f8b08", True),
        (2, "1f8b07", False),
        (2, "1f8b", False),
        (2, "1f9d08", False),
        (3, "789c", True),
        (3, "7801", True),
        (3, "78da", True),
        (3, "0800", False),
        (3, "081d", True),
        (3, "78", False),
        (3, "789d", False),  # the check bits
        (3, "78bb", False),  # names a dictionary
        (3, "8819", False),  # a window over 32 KiB
        (3, "7786", False),  # another method
        (4, "00", True),
    ],
)
def test_compressed_bodies_start_as_they_must(algorithm: int, start: str, good: bool) -> None:
    assert relays(bytes.fromhex(start), algorithm) is good


def test_what_is_remembered_of_a_sender_is_short() -> None:
    """A visitor that sent one frame with a sender of a megabyte, and stays, costs no megabyte."""
    sender = pb.ID(net_key=bytes(1000 << 10), address="tcp://127.0.0.1:1")
    frame = encode_frame(NET, pb.Message(sender=sender, opcode=1000, netID=NET).SerializeToString())
    spare = SpareBuffers()
    scanners = [RelayScanner(NET, LIMIT, spare=spare) for _ in range(9)]
    assert b"".join(map(bytes, scanners[0].feed(frame))) == frame  # the buffers are made
    with traced_memory() as traced:
        for scanner in scanners[1:]:
            assert sum(map(len, scanner.feed(frame))) == len(frame)
        kept_bytes, _ = traced.get_traced_memory()
    assert kept_bytes < 1 << 20


def test_nothing_of_a_bad_frame_waits_for_the_collector() -> None:
    """Which comes when it likes, and knows of no limit."""

    def bad_frame() -> None:
        scanner = RelayScanner(NET, LIMIT, spare=SpareBuffers())
        for _ in scanner.feed(encode_frame(NET, bytes(1 << 20))):
            pass

    gc.collect()
    gc.disable()
    try:
        with traced_memory() as memory:
            for _ in range(8):
                with suppress(FrameError):
                    bad_frame()
            assert memory.get_traced_memory()[0] < 1 << 20
    finally:
        gc.enable()
