"""How many sockets may be open, and for whom the last ones are kept.

Running out of descriptors must cost those who come, never those who are there:
visitors are turned away first, then further ports are refused, then connections.
What is counted are the sockets of the service and those it has promised; a reserve
is left for all the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.logger import Logger

from proxyservice.errors import StartError
from proxyservice.net.descriptor_limit import MOST, raise_descriptor_limit

VISITORS_SHARE = 0.85
RESERVED_FOR_NODES = 64
"""No visitor takes one of these, nor of the last 15 %: a node that comes back must get in."""

RESERVED_FOR_US = 32
"""Log, store, epoll, main ports and what libraries open for a moment; 15 on an idle service."""

CONNECTION_AND_PORT = 2
"""A main connection that is let in finds a descriptor for its first proxy port, whenever it asks:
those who connect faster than they are served must not leave each other without."""

DESCRIPTORS_PER_NODE = 3
"""Main connection, proxy port, one visitor."""

REMEDY = "raise the hard limit (LimitNOFILE=, ulimit -Hn)"

log = Logger()


class Descriptors:
    """``count()``: sockets that are open or promised; unlimited until `raise_limit`."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._limit: float = inf
        self._short = False

    def raise_limit(self) -> int:
        """To what the system allows; return that.

        Raises StartError where no node could be served: each would find its
        connection closed without a word.
        """
        most = raise_descriptor_limit() or MOST
        self._limit = most
        if self.nodes < 1:
            raise StartError(
                f"{most} descriptors are too few for one node with one visitor, "
                f"{RESERVED_FOR_NODES + DESCRIPTORS_PER_NODE} are the least; {REMEDY}"
            )
        return most

    @property
    def limit(self) -> int:
        """How many there may be, once `raise_limit` has said it."""
        return int(self._limit)

    @property
    def nodes(self) -> int:
        """For how many nodes with a visitor each there is room."""
        return int((self._limit - RESERVED_FOR_NODES) // DESCRIPTORS_PER_NODE)

    @property
    def room_for_node(self) -> bool:
        """One more main connection may come; a port is promised to it."""
        return self._count() + CONNECTION_AND_PORT <= self._limit - RESERVED_FOR_US

    @property
    def room_for_port(self) -> bool:
        """One more proxy port may be opened that was promised to nobody."""
        return self._count() < self._limit - RESERVED_FOR_US

    @property
    def room_for_visitor(self) -> bool:
        """One more visitor leaves enough for nodes. Says in the log when that changes."""
        count, most = self._count(), self._limit
        room = count < min(VISITORS_SHARE * most, most - RESERVED_FOR_NODES)
        if room == self._short:
            self._short = not room
            if room:
                log.info("visitors are let in again: {count} sockets are open", count=count)
            else:
                log.warn(
                    "visitors are turned away: {count} sockets are open, and {limit} descriptors "
                    "are all; {remedy}",
                    count=count,
                    limit=int(most),
                    remedy=REMEDY,
                )
        return room
