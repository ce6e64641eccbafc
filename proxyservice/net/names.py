"""Names to addresses, by the system's resolver, in threads that nobody waits for.

The system's resolver blocks, for as long as name servers are silent, and
cannot be interrupted. Twisted asks it in a pool of threads that the process's
end waits for; these here are daemons, and what they find when nobody is left
to hear it is dropped. Both families are asked for at once and apart: a name
server that is silent about one of them keeps nobody from the other.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from zope.interface import implementer

FAMILIES = (socket.AF_INET6, socket.AF_INET)

LOOKUPS_AT_ONCE = 32
"""Threads; further names wait. The same name is looked up once for all who ask meanwhile."""

MOST_ADDRESSES = 16
"""Of one family; whoever has more of them has a few that answer."""

Found = Callable[[list[str], str], None]
"""Called with IP addresses, link-local ones with their zone, or none and the reason."""


def numeric_address(host: str) -> str | None:
    """The same when it is an IP address, in whatever spelling and with a zone; None for a name."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return host


def _look_up(host: str, family: int) -> tuple[list[str], str]:
    """Blocks."""
    try:
        answers = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        return [], _reason(error)
    except (OSError, UnicodeError, ValueError):
        return [], "that is no name"
    return list(dict.fromkeys(_text(answer[4]) for answer in answers))[:MOST_ADDRESSES], ""


def _text(address: Any) -> str:
    host, zone = str(address[0]), address[3] if len(address) == 4 else 0
    return f"{host}%{zone}" if zone and "%" not in host else host


def _reason(error: socket.gaierror) -> str:
    if error.errno == socket.EAI_AGAIN:
        return "no name server answers"
    return "there is no such name"


class NameLookups:
    """Of one reactor. What is asked for while the same is being looked up gets that answer."""

    def __init__(self, reactor: Any, look_up: Callable[..., tuple[list[str], str]] = _look_up):
        self._reactor = reactor
        self._look_up = look_up
        self._pending: dict[tuple[str, int], list[Found]] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._running = 0

    def look_up(self, host: str, family: int, found: Found) -> Callable[[], None]:
        """Call ``found`` later, in the reactor's thread; returns what makes it not be called."""
        key = host, family
        listeners = self._pending.get(key)
        if listeners is None:
            listeners = self._pending[key] = []
            self._waiting.append(key)
            self._begin()
        listeners.append(found)

        def forget() -> None:
            if found in listeners:
                listeners.remove(found)

        return forget

    def _begin(self) -> None:
        while self._waiting and self._running < LOOKUPS_AT_ONCE:
            key = self._waiting.popleft()
            self._running += 1
            threading.Thread(target=self._run, args=key, daemon=True, name="name lookup").start()

    def _run(self, host: str, family: int) -> None:
        answer = self._look_up(host, family)
        try:
            self._reactor.callFromThread(self._answered, (host, family), *answer)
        except Exception:  # the reactor has gone meanwhile
            return

    def _answered(self, key: tuple[str, int], addresses: list[str], reason: str) -> None:
        self._running -= 1
        self._begin()
        listeners = self._pending.pop(key)
        while listeners:  # one that is told may make another forget
            listeners.pop(0)(addresses, reason)


_lookups: dict[int, NameLookups] = {}


def lookups_of(reactor: Any) -> NameLookups:
    """The one of this reactor."""
    lookups = _lookups.get(id(reactor))
    if lookups is None or lookups._reactor is not reactor:
        lookups = _lookups[id(reactor)] = NameLookups(reactor)
    return lookups


@implementer(IHostResolution)
class _Resolution:
    """Of one name, for Twisted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cancelled = False

    def cancel(self) -> None:
        """Nobody wants to hear of it any more."""
        self.cancelled = True


@implementer(IHostnameResolver)
class DaemonResolver:
    """The same for Twisted's own endpoints: installed, it takes the place of its pool."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        """Tell the receiver the addresses of the wanted types."""
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        kinds: dict[int, Any] = {socket.AF_INET6: IPv6Address, socket.AF_INET: IPv4Address}
        wanted = [one for one in FAMILIES if addressTypes is None or kinds[one] in addressTypes]
        missing = set(wanted)

        def found(family: int, addresses: list[str]) -> None:
            missing.discard(family)
            if resolution.cancelled:
                return
            for host in addresses:
                address = kinds[family](transportSemantics, host, portNumber)
                resolutionReceiver.addressResolved(address)
            if not missing:
                resolutionReceiver.resolutionComplete()

        def listener(family: int) -> Found:
            return lambda addresses, reason: found(family, addresses)

        for family in wanted:
            lookups_of(self._reactor).look_up(hostName, family, listener(family))
        return resolution
