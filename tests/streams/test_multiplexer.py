"""Two multiplexers joined: whatever both do in whatever order, they agree and nothing is lost."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from proxyservice.errors import StreamError
from proxyservice.streams.multiplexer import STREAMS_LIMIT, Multiplexer, Stream
from proxyservice.streams.state import State
from proxyservice.streams.windows import (
    CREDIT_BOUND_BYTES,
    DEFAULT_WINDOW_BYTES,
    LARGEST_WINDOW_BYTES,
)
from proxyservice.wire import proxyservice_pb2 as pb

WINDOW = DEFAULT_WINDOW_BYTES


def told(mux: Multiplexer) -> list[tuple[str, int, int]]:
    """What is due, as (word, stream id, number)."""
    words = []
    while (due := mux.next_due()) is not None:
        stream = due.stream
        if due.opening:
            words.append(("open", stream.id, stream.receive.size_bytes))
        if due.credit_bytes:
            words.append(("window", stream.id, due.credit_bytes))
        if due.end:
            words.append(("end", stream.id, 0))
        if due.reset:
            words.append(("reset", stream.id, stream.reset_code))
    return words


def opened(mux: Multiplexer) -> Stream:
    stream = mux.open()
    assert stream is not None
    return stream


def server_with(count: int) -> tuple[Multiplexer, list[Stream]]:
    mux = Multiplexer(WINDOW)
    streams = [opened(mux) for _ in range(count)]
    told(mux)
    return mux, streams


def test_ids_count_from_one_and_are_given_when_the_peer_is_told() -> None:
    mux = Multiplexer(WINDOW)
    streams = [opened(mux) for _ in range(3)]
    assert [stream.id for stream in streams] == [0, 0, 0]
    assert [(word, i) for word, i, _ in told(mux)] == [("open", 1), ("open", 2), ("open", 3)]


def test_a_visitor_that_goes_before_the_node_was_told_leaves_no_trace() -> None:
    mux = Multiplexer(WINDOW)
    for _ in range(100_000):
        mux.reset(opened(mux), pb.RESET_ABORTED)
    assert len(mux) == 0
    assert mux.granted_bytes == 0
    stream = opened(mux)
    assert told(mux) == [("open", 1, WINDOW)]
    assert stream.id == 1


def test_what_is_due_is_told_once_in_order_and_a_reset_replaces_it() -> None:
    mux, (stream,) = server_with(1)
    mux.received(1, WINDOW)
    mux.consumed(stream, WINDOW)
    mux.end(stream)
    assert [word for word, *_ in told(mux)] == ["window", "end"]
    other = opened(mux)
    told(mux)
    mux.end(other)
    mux.reset(other, pb.RESET_ABORTED)
    mux.reset(other, pb.RESET_LEASE_GONE)
    assert told(mux) == [("reset", 2, pb.RESET_ABORTED)]


@pytest.mark.parametrize("stream_id", [0, 2, 4, 1 << 63])
def test_an_opening_must_be_the_next(stream_id: int) -> None:
    with pytest.raises(StreamError):
        Multiplexer(WINDOW).opened(stream_id, WINDOW, WINDOW)


@pytest.mark.parametrize("windows", [(0, 1), (1, 0), (1 << 31, 1), (1, WINDOW + 1)])
def test_an_opening_with_windows_that_cannot_be(windows: tuple[int, int]) -> None:
    with pytest.raises(StreamError):
        Multiplexer(WINDOW).opened(1, *windows)


@pytest.mark.parametrize("say", ["received", "granted"])
@pytest.mark.parametrize("stream_id", [0, 3, 1 << 40])
def test_a_frame_of_a_stream_that_never_was_is_an_error(say: str, stream_id: int) -> None:
    mux, _ = server_with(2)
    with pytest.raises(StreamError):
        getattr(mux, say)(stream_id, 1)


def test_frames_of_streams_that_have_ended_are_dropped_and_counted() -> None:
    mux, (stream,) = server_with(1)
    mux.reset(stream, pb.RESET_ABORTED)
    assert mux.received(1, 5) is mux.granted(1, 5) is mux.ended(1) is mux.was_reset(1) is None
    assert mux.dropped_frames == 4


def test_data_after_the_end_is_answered_with_a_reset_once() -> None:
    mux, (stream,) = server_with(1)
    assert mux.ended(1) is stream
    assert mux.received(1, 5) is stream
    assert stream.state is State.GONE
    assert stream.receive.held_bytes == 0
    assert told(mux) == [("reset", 1, pb.RESET_ENDED)]
    assert mux.received(1, 5) is None
    assert told(mux) == []


def test_a_reset_is_never_answered() -> None:
    mux, (stream,) = server_with(1)
    assert mux.was_reset(1) is stream
    mux.reset(stream, pb.RESET_ABORTED)
    assert told(mux) == []


def test_streams_are_limited_in_number() -> None:
    mux = Multiplexer(16)
    assert [mux.open() is None for _ in range(STREAMS_LIMIT + 1)] == [False] * STREAMS_LIMIT + [
        True
    ]


def test_a_node_refuses_streams_beyond_its_memory() -> None:
    mux = Multiplexer(WINDOW)
    room = CREDIT_BOUND_BYTES // WINDOW
    assert all(mux.opened(i + 1, WINDOW, WINDOW) for i in range(room))
    assert mux.opened(room + 1, WINDOW, WINDOW) is None
    assert told(mux) == [("reset", room + 1, pb.RESET_NO_ROOM)]
    assert mux.granted_bytes <= CREDIT_BOUND_BYTES


def test_a_peer_that_opens_and_never_reads_is_given_up() -> None:
    """What is due to it stays bounded: an end for each stream that may be open, and one more."""
    mux = Multiplexer(WINDOW, streams_limit := 3)
    for stream_id in range(1, streams_limit + 1):
        assert mux.opened(stream_id, WINDOW, WINDOW) is not None
    for stream_id in range(4, 4 + streams_limit + 1):
        assert mux.opened(stream_id, WINDOW, WINDOW) is None
    with pytest.raises(StreamError, match="not heard"):
        mux.opened(stream_id + 1, WINDOW, WINDOW)
    assert len(told(mux)) == streams_limit + 1


def test_openings_and_resets_in_turn_leave_nothing_due() -> None:
    """A visitor comes and goes, again and again, while nothing can be told: not one byte waits."""
    mux = Multiplexer(WINDOW)
    for stream_id in range(1, 5000):
        stream = mux.opened(stream_id, WINDOW, WINDOW)
        assert stream is not None
        mux.received(stream_id, WINDOW)
        mux.consumed(stream, WINDOW)
        match stream_id % 3:
            case 0:
                mux.end(stream)
            case 1:
                mux.reset(stream, pb.RESET_UNWANTED)
        assert mux.owes
        mux.was_reset(stream_id)
        assert not mux.owes


def test_an_end_that_was_not_told_yet_is_told_after_the_peers() -> None:
    mux = Multiplexer(WINDOW)
    stream = mux.opened(1, WINDOW, WINDOW)
    assert stream is not None
    mux.end(stream)
    mux.ended(1)
    assert stream.state is State.GONE
    assert told(mux) == [("end", 1, 0)]


def test_256_unread_streams_stay_within_the_bound() -> None:
    mux, streams = server_with(256)
    for stream in streams:
        mux.received(stream.id, stream.receive.unused_bytes)
    assert sum(s.receive.held_bytes for s in streams) == mux.granted_bytes <= CREDIT_BOUND_BYTES


def test_what_is_held_counts_until_it_has_left_also_when_the_stream_is_gone() -> None:
    mux, (stream,) = server_with(1)
    mux.received(1, 1000)
    mux.ended(1)
    mux.end(stream)
    assert stream.state is State.GONE
    assert mux.granted_bytes == 1000
    mux.consumed(stream, 1000)
    assert mux.granted_bytes == 0


def test_a_stream_that_ends_while_credit_is_due_leaves_no_window_behind() -> None:
    mux, (stream,) = server_with(1)
    mux.received(1, WINDOW)
    mux.consumed(stream, WINDOW)
    mux.end(stream)
    mux.ended(1)
    assert told(mux) == [("end", 1, 0)]
    fresh = opened(mux)
    told(mux)
    for _ in range(8):
        n_bytes = fresh.receive.unused_bytes
        mux.received(2, n_bytes)
        mux.consumed(fresh, n_bytes)
        told(mux)
    assert fresh.receive.size_bytes == LARGEST_WINDOW_BYTES, "the only busy one has all there is"


class Joined(RuleBasedStateMachine):
    """Two multiplexers; what one says arrives at the other later, in order."""

    streams: Bundle[int] = Bundle("streams")

    @initialize()
    def join(self) -> None:
        self.muxes = (Multiplexer(WINDOW), Multiplexer(WINDOW))
        self.lines: tuple[deque[tuple[str, int, int]], ...] = (deque(), deque())
        self.ends: list[dict[int, Stream]] = [{}, {}]
        self.sent: dict[tuple[int, int], int] = {}
        self.got: dict[tuple[int, int], int] = {}
        self.granted: dict[tuple[int, int], int] = {}
        self.nodes = 0

    def tell(self, side: int) -> None:
        mux = self.muxes[side]
        while (due := mux.next_due()) is not None:
            stream, line = due.stream, self.lines[side]
            if due.opening:
                self.ends[side][stream.id] = stream
                self.granted[side, stream.id] = stream.receive.size_bytes
                self.granted[1 - side, stream.id] = stream.taken_bytes
                line.append(("open", stream.id, stream.receive.size_bytes))
            if due.credit_bytes:
                self.granted[side, stream.id] += due.credit_bytes
                line.append(("window", stream.id, due.credit_bytes))
            if due.end:
                line.append(("end", stream.id, 0))
            if due.reset:
                line.append(("reset", stream.id, 0))

    @rule(target=streams)
    def open(self) -> int:
        stream = self.muxes[0].open()
        if stream is None:
            return 0
        self.tell(0)
        self.nodes = max(self.nodes, stream.id)
        return stream.id

    @rule(side=st.integers(0, 1), stream_id=streams, n_bytes=st.integers(1, 300_000))
    def send(self, side: int, stream_id: int, n_bytes: int) -> None:
        stream = self.ends[side].get(stream_id)
        if stream is None or stream.state not in (State.OPEN, State.END_RECEIVED):
            return
        n_bytes = min(n_bytes, stream.send.credit_bytes)
        if n_bytes:
            self.muxes[side].sent(stream, n_bytes)
            self.sent[side, stream_id] = self.sent.get((side, stream_id), 0) + n_bytes
            self.lines[side].append(("data", stream_id, n_bytes))

    @rule(side=st.integers(0, 1), stream_id=streams, n_bytes=st.integers(1, 300_000))
    def consume(self, side: int, stream_id: int, n_bytes: int) -> None:
        stream = self.ends[side].get(stream_id)
        if stream is not None:
            self.muxes[side].consumed(stream, min(n_bytes, stream.receive.held_bytes))
            self.tell(side)

    @rule(side=st.integers(0, 1), stream_id=streams)
    def end(self, side: int, stream_id: int) -> None:
        if (stream := self.ends[side].get(stream_id)) is not None:
            self.muxes[side].end(stream)
            self.tell(side)

    @rule(side=st.integers(0, 1), stream_id=streams)
    def reset(self, side: int, stream_id: int) -> None:
        if (stream := self.ends[side].get(stream_id)) is not None:
            self.muxes[side].reset(stream, pb.RESET_ABORTED)
            self.tell(side)

    @rule(side=st.integers(0, 1), count=st.integers(1, 20))
    def deliver(self, side: int, count: int) -> None:
        """The other side hears what this one said; it never sees an error."""
        mux, line = self.muxes[1 - side], self.lines[side]
        for _ in range(min(count, len(line))):
            word, stream_id, number = line.popleft()
            if word == "open":
                taken = self.granted[1, stream_id]
                stream = mux.opened(stream_id, number, taken)
                assert stream is not None
                self.ends[1][stream_id] = stream
            elif word == "data":
                stream = mux.received(stream_id, number)
                if stream is not None:
                    key = (side, stream_id)
                    self.got[key] = self.got.get(key, 0) + number
            elif word == "window":
                mux.granted(stream_id, number)
            else:
                {"end": mux.ended, "reset": mux.was_reset}[word](stream_id)
        self.tell(1 - side)

    @invariant()
    def credit_is_never_negative_and_never_exceeded(self) -> None:
        for side in (0, 1):
            for stream_id, stream in self.ends[side].items():
                assert stream.send.credit_bytes >= 0
                sent = self.sent.get((side, stream_id), 0)
                assert self.got.get((side, stream_id), 0) <= sent
                assert sent <= self.granted[1 - side, stream_id]
            assert self.muxes[side].granted_bytes <= CREDIT_BOUND_BYTES

    def teardown(self) -> None:
        """No deadlock: once everything is delivered and consumed, who may send can."""
        if not hasattr(self, "muxes"):
            return
        for _ in range(4):
            for side in (0, 1):
                self.deliver(side, 10_000)
                for stream in self.ends[1 - side].values():
                    self.muxes[1 - side].consumed(stream, stream.receive.held_bytes)
                self.tell(1 - side)
        for side in (0, 1):
            for stream_id, stream in self.ends[side].items():
                other = self.ends[1 - side][stream_id]
                assert (stream.state is State.GONE) == (other.state is State.GONE)
                if stream.state in (State.OPEN, State.END_RECEIVED):
                    assert stream.send.credit_bytes > 0
                    assert self.got.get((side, stream_id), 0) == self.sent.get((side, stream_id), 0)
        live = [s for s in self.ends[0].values() if s.state is not State.GONE]
        assert len(self.muxes[0]) == len(self.muxes[1]) == len(live)


TestJoined = Joined.TestCase
TestJoined.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
