"""One connection to a host that has several addresses, as RFC 8305 has it ("happy eyeballs").

The addresses of both families are dialled in turn, IPv6 first, each a moment
after the one before or as soon as that has failed; the first connection wins
and the others are dropped. So an address that is dead, or a family that leads
nowhere, costs a quarter of a second, whatever its place.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.protocol import Protocol

from proxyservice.net.addresses import format_host_port
from proxyservice.net.connect import Dial, DialFailure
from proxyservice.net.names import FAMILIES, NameLookups, numeric_address

STAGGER_SECONDS = 0.25
"""After an address that has not answered yet; RFC 8305, section 5."""

OTHER_FAMILY_SECONDS = 0.05
"""IPv4 waits so long for the addresses of IPv6; RFC 8305, section 3."""

RACE_SECONDS = 10.0
"""With looking up. A host that answers at all has answered by then, two lost packets included."""

NO_ANSWER = f"no answer within {RACE_SECONDS:g} s"

SHOWN_REASONS = 4


class Race:
    """One attempt; exactly one of ``build(address)`` and ``failed(reason)`` is called.

    ``build`` makes the protocol, ``connected()`` follows when it has its transport.
    """

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        build: Callable[[str], Protocol],
        failed: Callable[[str], None],
        connected: Callable[[], None],
        lookups: NameLookups,
    ) -> None:
        self._reactor = reactor
        self._host, self._port = host, port
        self._build = build
        self._failed = failed
        self._connected = connected
        self._lookups = lookups
        self._addresses: dict[int, deque[str]] = {family: deque() for family in FAMILIES}
        self._unknown: dict[int, Callable[[], None]] = {}  # families that are being looked up
        self._no_address = ""  # why there is none, if so
        self._last_family: int = socket.AF_INET
        self._dials: dict[str, Dial] = {}
        self._reasons: dict[str, str] = {}
        self._next: Any = None  # timers
        self._deadline: Any = None
        self._over = False

    def start(self) -> None:
        """Begin; the outcome may be told before this returns."""
        self._deadline = self._reactor.callLater(RACE_SECONDS, self._too_late)
        address = numeric_address(self._host)
        if address is not None:
            self._addresses[socket.AF_INET6 if ":" in address else socket.AF_INET].append(address)
            self._dial()
            return
        for family in FAMILIES:
            found = partial(self._found, family)
            self._unknown[family] = self._lookups.look_up(self._host, family, found)

    def cancel(self) -> None:
        """Nobody waits any more; neither outcome is told."""
        self._over = True
        for forget in self._unknown.values():
            forget()
        for timer in (self._next, self._deadline):
            if timer is not None and timer.active():
                timer.cancel()
        for dial in self._dials.values():
            dial.cancel()
        self._dials.clear()

    # ------------------------------------------------------------- looking up

    def _found(self, family: int, addresses: list[str], reason: str) -> None:
        del self._unknown[family]
        self._addresses[family].extend(addresses)
        self._no_address = self._no_address or reason
        if self._dials or self._next is not None:
            self._go_on()  # the race has begun
        elif addresses and family != FAMILIES[0] and self._unknown:
            self._next = self._reactor.callLater(OTHER_FAMILY_SECONDS, self._dial)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Something has changed: dial at once what may be dialled, or see that all is lost."""
        if self._over:
            return
        if self._next is not None and self._next.active() and self._dials:
            return  # the next one has its time
        if any(self._addresses.values()):
            self._dial()
        elif not self._dials and not self._unknown:
            self._lose(self._why())

    # ---------------------------------------------------------------- dialling

    def _dial(self) -> None:
        """The next address, of the other family if there is one; and see to the one after it."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        address = self._pick()
        if address is None or self._over:
            return
        dial = self._dials[address] = Dial(
            self._reactor,
            (address, self._port),
            partial(self._won, address),
            partial(self._missed, address),
            self._connected,
        )
        self._next = self._reactor.callLater(STAGGER_SECONDS, self._dial)
        dial.start()

    def _pick(self) -> str | None:
        families = sorted(FAMILIES, key=lambda family: family == self._last_family)
        for family in families:
            if self._addresses[family]:
                self._last_family = family
                return self._addresses[family].popleft()
        return None

    def _missed(self, address: str, why: DialFailure) -> None:
        self._dials.pop(address, None)
        self._reasons[address] = why.reason
        if self._over:
            return
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._go_on()

    def _won(self, address: str) -> Protocol:
        self._dials.pop(address, None)
        self.cancel()
        return self._build(address)

    # ------------------------------------------------------------------ the end

    def _too_late(self) -> None:
        if self._unknown and not self._dials and not self._reasons:
            self._lose(f"no name server answers within {RACE_SECONDS:g} s")
            return
        for address in [*self._dials, *(one for many in self._addresses.values() for one in many)]:
            self._reasons[address] = NO_ANSWER
        self._lose(self._why())

    def _why(self) -> str:
        """One reason, or each address with its own."""
        if not self._reasons:
            return self._no_address
        if len(set(self._reasons.values())) == 1:
            return next(iter(self._reasons.values()))
        told = [
            f"{format_host_port(address, self._port)}: {reason}"
            for address, reason in list(self._reasons.items())[:SHOWN_REASONS]
        ]
        return "; ".join(told)

    def _lose(self, reason: str) -> None:
        self.cancel()
        self._failed(reason)
