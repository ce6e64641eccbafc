"""The local end of a stream that nobody serves any more, while the visitor may still talk.

A socket that is closed while input is under way resets, and the visitor may
lose the answer that it was just sent. So after the last byte went out this end
listens on for a while, throws away what comes and grants no credit for it.
"""

from __future__ import annotations

from typing import Any

from proxyservice.net.stream_switch import StreamSwitch
from proxyservice.streams.multiplexer import Stream
from proxyservice.streams.state import State
from proxyservice.wire import proxyservice_pb2 as pb

LINGER_SECONDS = 5.0
"""The visitor has read its answer by then, or will not."""


class ClosedEnd:
    """Sends the stream's End, and lingers until the visitor ends too or the time is up."""

    def __init__(self, switch: StreamSwitch, stream: Stream, clock: Any) -> None:
        self._switch = switch
        self._stream = stream
        self._timer: Any = None
        self._thrown_away_bytes = 0
        stream.local = self
        switch.end(stream)
        if stream.state is not State.GONE:
            self._timer = clock.callLater(LINGER_SECONDS, self._out_of_patience)

    def _out_of_patience(self) -> None:
        self._switch.reset(self._stream, pb.RESET_ABORTED)
        self._stop()

    def _stop(self) -> None:
        """The stream is gone: what was thrown away is no longer held for it."""
        thrown_away_bytes, self._thrown_away_bytes = self._thrown_away_bytes, 0
        if thrown_away_bytes:
            self._switch.consumed(self._stream, thrown_away_bytes)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def stream_received(self, view: memoryview) -> None:
        """Nobody wants it; its credit is not returned, so at most a window comes."""
        self._thrown_away_bytes += len(view)

    def stream_ended(self) -> None:
        """Now both have ended."""
        self._stop()

    def stream_reset(self, code: int, reason: str) -> None:
        """The visitor has gone."""
        self._stop()

    def stream_ready(self) -> None:
        """There is nothing left to send."""

    def send_turn(self) -> None:
        """There is nothing left to send."""
