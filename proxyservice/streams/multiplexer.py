"""Many streams on one main connection: ids, states, credit, and what is due to the peer.

The multiplexer counts bytes and never carries any. Its owner asks how much may
be sent, reports what was sent, received and consumed, and takes what is due
(openings, credit, ends, resets) when the connection can take it. What is due
is a set: however long the peer does not read, it holds each stream once.

Knows neither frames nor transports (docs/protocol.md, "Streams").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from proxyservice.errors import StreamError
from proxyservice.streams.state import TABLE, Act, Event, State
from proxyservice.streams.windows import (
    DEFAULT_WINDOW_BYTES,
    CreditBudget,
    ReceiveWindow,
    SendWindow,
)
from proxyservice.wire import proxyservice_pb2 as pb

STREAMS_LIMIT: Final = 1024
"""Open streams of one main connection (yamux, Envoy); the next visitor is refused."""


class Stream:
    """One visitor's bytes, seen from one end.

    `id` is 0 until the opening has been taken as due; `local` is whoever has
    the socket, `taken_bytes` the credit that the opener gave itself.
    """

    __slots__ = (
        *("id", "local", "receive", "reset_code", "reset_reason"),
        *("send", "state", "taken_bytes"),
    )

    def __init__(self, send: SendWindow, receive: ReceiveWindow) -> None:
        self.id = 0
        self.state = State.OPEN
        self.send = send
        self.receive = receive
        self.reset_code = 0
        self.reset_reason = ""
        self.local: Any = None
        self.taken_bytes = 0


class Due(NamedTuple):
    """What the peer has to be told about one stream, in this order."""

    stream: Stream
    opening: bool
    credit_bytes: int
    end: bool
    reset: bool


_OPENING, _CREDIT, _END, _RESET = 1, 2, 4, 8


class Multiplexer:
    """One end of one main connection.

    ``peer_window_bytes`` is the credit that the peer gives to every stream at
    its beginning. The server opens streams, the node has them opened.
    """

    def __init__(self, peer_window_bytes: int, streams_limit: int = STREAMS_LIMIT) -> None:
        self._peer_window_bytes = peer_window_bytes
        self._streams_limit = streams_limit
        self._streams: dict[int, Stream] = {}
        self._unannounced: set[Stream] = set()
        self._untold: dict[int, Stream] = {}  # gone, and the peer has yet to hear so
        self._last_id = 0
        self._due: dict[Stream, int] = {}
        self._granted = CreditBudget()
        self._taken = CreditBudget()  # the peer's budget, as far as openings draw on it
        self.dropped_frames = 0
        """Frames for streams that had ended, or that said nothing any more."""

    def __len__(self) -> int:
        return len(self._streams) + len(self._unannounced)

    def __iter__(self) -> Iterator[Stream]:
        return iter([*self._streams.values(), *self._unannounced])

    @property
    def granted_bytes(self) -> int:
        """The most that may come to lie in memory here."""
        return self._granted.granted_bytes

    def let_windows_grow(self, grow: bool) -> None:
        """Whether streams may be granted more than they have."""
        self._granted.may_grow = grow

    # ---------------------------------------------------------- opening

    def open(self) -> Stream | None:
        """Begin a stream, with credit for both sides; None when there is no more room."""
        window_bytes = self._granted.initial_bytes()
        peer_bytes = self._taken.initial_bytes(self._peer_window_bytes)
        if len(self) >= self._streams_limit or not window_bytes or not peer_bytes:
            return None
        stream = Stream(SendWindow(peer_bytes), ReceiveWindow(window_bytes, self._granted))
        stream.taken_bytes = peer_bytes
        self._taken.granted_bytes += peer_bytes
        self._unannounced.add(stream)
        self._owe(stream, _OPENING)
        return stream

    def opened(self, stream_id: int, credit_bytes: int, window_bytes: int) -> Stream | None:
        """The peer has begun a stream: it grants ``credit_bytes`` and takes ``window_bytes``.

        None when there is no room for it, which the peer is told. Raises
        StreamError for an id that is not the next, for windows that cannot be,
        and where as many streams have gone as may be open and the peer has not
        heard of it: to a peer within its limit these are still open.
        """
        if stream_id != self._last_id + 1:
            raise StreamError(f"stream {stream_id} opened after {self._last_id}")
        if len(self._untold) > self._streams_limit:
            raise StreamError(f"stream {stream_id} opened, and the ends of others not heard")
        if not 0 < window_bytes <= DEFAULT_WINDOW_BYTES:
            raise StreamError(f"stream {stream_id} takes a window of {window_bytes} bytes")
        send = SendWindow(0)
        send.granted(credit_bytes)
        room = len(self) < self._streams_limit and self._granted.has_room(window_bytes)
        stream = Stream(send, ReceiveWindow(window_bytes, self._granted))
        self._number(stream)
        if not room:
            self.reset(stream, pb.RESET_NO_ROOM, "no room for another stream")
            return None
        return stream

    def _number(self, stream: Stream) -> None:
        self._last_id += 1
        stream.id = self._last_id
        self._streams[stream.id] = stream

    # ------------------------------------------------- what the peer says

    def received(self, stream_id: int, n_bytes: int) -> Stream | None:
        """Data came; the stream to hand it to, or None. Raises StreamError beyond credit.

        A stream that is gone now had its end before: its local end is to hear so.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            self._drop(stream_id)
            return None
        act = TABLE[stream.state][Event.DATA][1]
        if act is Act.PASS:
            stream.receive.received(n_bytes)
        else:
            self.reset(stream, pb.RESET_ENDED, "data after its end")
        return stream

    def granted(self, stream_id: int, n_bytes: int) -> Stream | None:
        """Credit came; the stream that may send again, or None."""
        stream = self._hear(stream_id, Event.WINDOW)
        if stream is not None:
            stream.send.granted(n_bytes)
        return stream

    def ended(self, stream_id: int) -> Stream | None:
        """The peer sends no more; the stream whose local end is to hear of it, or None."""
        return self._hear(stream_id, Event.END)

    def was_reset(self, stream_id: int) -> Stream | None:
        """The peer has given the stream up; it is never answered, nor told anything more."""
        stream = self._hear(stream_id, Event.RESET)
        untold = self._untold.pop(stream_id, None)
        if untold is not None:
            del self._due[untold]
        return stream

    def _hear(self, stream_id: int, event: Event) -> Stream | None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._drop(stream_id)
            return None
        state, act = TABLE[stream.state][event]
        if act is not Act.PASS:
            self.dropped_frames += 1
            return None
        if state is not stream.state:
            self._become(stream, state)
        return stream

    def _drop(self, stream_id: int) -> None:
        if not 0 < stream_id <= self._last_id:
            raise StreamError(f"a frame for stream {stream_id}, which was never opened")
        self.dropped_frames += 1

    # --------------------------------------------------- what this side does

    def sent(self, stream: Stream, n_bytes: int) -> None:
        """Data was sent; at most `stream.send.credit_bytes`, and only while the stream is open."""
        assert TABLE[stream.state][Event.SEND_DATA][1] is Act.PASS, "data after the end"
        stream.send.sent(n_bytes)

    def consumed(self, stream: Stream, n_bytes: int) -> None:
        """Received bytes have left for the other transport, or were thrown away."""
        if stream.state is State.GONE:
            stream.receive.left(n_bytes)
        elif stream.receive.consumed(n_bytes) and stream.state is not State.END_RECEIVED:
            self._owe(stream, _CREDIT)

    def end(self, stream: Stream) -> None:
        """Nothing more is sent; all data must have been."""
        state, act = TABLE[stream.state][Event.SEND_END]
        if act is Act.PASS:
            self._owe(stream, _END)
            self._become(stream, state)

    def reset(self, stream: Stream, code: int, reason: str = "") -> None:
        """Give the stream up; the peer is told if it has heard of it."""
        if stream.state is State.GONE:
            return
        self._due.pop(stream, None)
        if stream.id:
            stream.reset_code, stream.reset_reason = code, reason
            self._owe(stream, _RESET)
        self._become(stream, State.GONE)

    def _become(self, stream: Stream, state: State) -> None:
        stream.state = state
        if state is State.GONE:
            self._streams.pop(stream.id, None)
            self._unannounced.discard(stream)
            stream.receive.close()
            self._taken.granted_bytes -= stream.taken_bytes
            self._keep_untold(stream)

    def _keep_untold(self, stream: Stream) -> None:
        """Of a stream that is gone only its end is still due."""
        what = self._due.pop(stream, 0) & (_END | _RESET)
        if what:
            self._due[stream] = what
            self._untold[stream.id] = stream

    # ------------------------------------------------------------- what is due

    def _owe(self, stream: Stream, what: int) -> None:
        self._due[stream] = self._due.get(stream, 0) | what

    @property
    def owes(self) -> bool:
        """Something is due to the peer."""
        return bool(self._due)

    def next_due(self) -> Due | None:
        """Take what is due about one stream, the longest waiting; None when nothing is."""
        if not self._due:
            return None
        stream = next(iter(self._due))
        what = self._due.pop(stream)
        if what & _OPENING:
            self._unannounced.remove(stream)
            self._number(stream)
        self._untold.pop(stream.id, None)
        credit_bytes = stream.receive.take_credit() if what & _CREDIT else 0
        opening, end, reset = (bool(what & bit) for bit in (_OPENING, _END, _RESET))
        return Due(stream, opening, credit_bytes, end, reset)
