"""Connections of somebody outside, who reads at once and whose writes wait for room."""

from __future__ import annotations

from tests.simulation.network import Line, Network, Socket

READ_BYTES = 1 << 20


class Peer:
    """One connection that was dialled; what it does with its bytes is for others to say."""

    def __init__(self, network: Network, port: int, source: str) -> None:
        self.socket: Socket | None = None
        self.over = False
        self._unsent = bytearray()
        self._ends = False
        self.line: Line = network.connect(port, source, self._answered)

    # ------------------------------------------------------- what it may hear

    def connected(self) -> None:
        """Somebody accepted."""

    def arrived(self, data: bytes) -> None:
        """Bytes came."""

    def finished(self) -> None:
        """The other side sends no more."""

    def lost(self) -> None:
        """Reset, given up by the kernel, or never accepted."""

    # --------------------------------------------------------- what it may do

    def write(self, data: bytes) -> None:
        self._unsent += data
        self._send()

    def end(self) -> None:
        """Send no more, once all has left."""
        self._ends = True
        self._send()

    def close(self) -> None:
        """Hear and say nothing more; what the kernel has is sent."""
        self._over(reset=False)

    def reset(self) -> None:
        self._over(reset=True)

    # ----------------------------------------------------------- its own part

    def _over(self, *, reset: bool) -> None:
        self.over = True
        if self.socket is not None:
            self.socket.wake = lambda: None
            self.socket.lingers = reset
            self.socket.close()

    def _answered(self, opened: Socket | None) -> None:
        if opened is None:
            if not self.over:
                self.over = True
                self.lost()
            return
        self.socket = opened
        if self.over:
            opened.close()
            return
        opened.wake = self._wake
        self.connected()
        self._wake()

    def _send(self) -> None:
        opened = self.socket
        if opened is None or self.over or opened.error:
            return
        if self._unsent and opened.room > 0:
            del self._unsent[: opened.send(self._unsent)]
        if self._ends and not self._unsent and not opened.shut:
            opened.shutdown(1)

    def _wake(self) -> None:
        opened = self.socket
        if opened is None or self.over:
            return
        self._send()
        if opened.received:
            self.arrived(opened.recv(READ_BYTES))
        if self.over:
            return
        if opened.error:
            self._over(reset=False)
            self.lost()
        elif opened.ended:
            opened.ended = False
            self.finished()
