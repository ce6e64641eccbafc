"""A lease as its node sees it: what is wanted, what is granted, who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from proxyservice.errors import ProxyServiceError
from proxyservice.net import foreign
from proxyservice.node.retry import Backoff
from proxyservice.text import printable
from proxyservice.wire import proxyservice_pb2 as pb


class NodeLease:
    """One (origin address, proxy address) of a node; made by `Node.lease`.

    The address outlives the connection: it stays what it was until another
    one is granted.
    """

    def __init__(
        self,
        origin: str,
        mode: pb.Mode,
        *,
        port: int | None = None,
        port_or_any: bool = False,
        label: str = "",
        acceptor: Any = None,
    ) -> None:
        self.origin = origin
        self.mode = mode
        self.wanted_port = port
        self.port_or_any = port_or_any
        """Any other port will do when that one is unavailable."""
        self.label = label
        self.acceptor = acceptor
        """Who takes the streams of this lease; None for message leases."""
        self.address: str | None = None
        """`host:port` where visitors reach the node; None before the first grant."""
        self.granted = False
        """The present main connection holds it."""
        self.asked = False
        """The present main connection has asked for it, and has no answer yet."""
        self.backoff = Backoff()
        """Between requests for it."""
        self.ask_again: Any = None
        """The timer of the next request for it on the present connection."""
        self.generation = 0
        self.request_nonce = 0
        """Number of the request by which the present connection asked for it."""
        self.error: ProxyServiceError | None = None
        """Why it was refused for good."""
        self._waiting: list[Deferred[str]] = []
        self._listeners: list[Callable[[str], None]] = []

    def when_addressed(self) -> Deferred[str]:
        """Fire with the address, now or when it is granted; fail when it never will be."""
        answer: Deferred[str] = Deferred()
        if self.error is not None:
            answer.errback(Failure(self.error))
        elif self.address is not None:
            answer.callback(self.address)
        else:
            self._waiting.append(answer)
        return answer

    def on_address(self, listener: Callable[[str], None]) -> None:
        """Call ``listener(address)`` at the first grant and whenever the address changes."""
        self._listeners.append(listener)

    def ask_no_more(self) -> None:
        """Nobody is going to be asked for it on this connection."""
        if self.ask_again is not None and self.ask_again.active():
            self.ask_again.cancel()
        self.ask_again = None

    def request(self, speaks_part_a: bool) -> pb.ProxyRequest:
        """What to ask the server; part A knows an origin address and nothing else."""
        if speaks_part_a:
            return pb.ProxyRequest(origin_address=self.origin)
        wanted = f":{self.wanted_port}" if self.wanted_port else ""
        return pb.ProxyRequest(
            origin_address=self.origin, proxy_address=wanted, mode=self.mode, label=self.label
        )

    def grant(self, response: pb.ProxyResponse) -> bool:
        """The server has granted it; tell whether the address is another one than before."""
        self.granted = True
        self.error = None
        self.generation = response.generation
        address = printable(response.proxy_address)
        if address == self.address:
            return False
        self.address = address
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            if not answer.called:  # else whoever asked has cancelled it
                answer.callback(address)
        for listener in list(self._listeners):
            foreign.call("a listener to a lease's address", None, listener, address)
        return True

    def refuse(self, error: ProxyServiceError) -> None:
        """It will not be granted any more."""
        self.ask_no_more()
        self.granted = False
        self.error = error
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            if not answer.called:
                answer.errback(Failure(error))
