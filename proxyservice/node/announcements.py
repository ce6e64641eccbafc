"""What `proxyservice expose` says: addresses on stdout, the rest on stderr, JSON to programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from proxyservice.errors import ProxyServiceError, RefusedError
from proxyservice.node.connecting import Connecting, in_time
from proxyservice.node.events import EndingEvents
from proxyservice.node.finality import Kind, is_superseded, kind_of
from proxyservice.node.lease import NodeLease
from proxyservice.node.progress import LONGEST_LINE_CHARACTERS, LiveLine, Traffic, summary_line
from proxyservice.node.reminders import Outages
from proxyservice.text import printable


def lines_lost(lines: int, *, as_json: bool) -> str:
    """What stands on stdout where lines are missing, because nobody read them or a disk is full."""
    if as_json:
        return _event("dropped", lines=lines) + "\n"
    return f"# {lines} line{'' if lines == 1 else 's'} could not be written here\n"


def _event(event: str, **fields: Any) -> str:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return json.dumps({"event": event, "time": now, **fields})


class Announcements(EndingEvents):
    """One line an event for people; with ``as_json`` also one object an event on stdout."""

    def __init__(
        self,
        stdout: TextIO,
        line: LiveLine,
        *,
        as_json: bool,
        leases: int,
        end: Callable[[ProxyServiceError], None],
        clock: Any,
        servers: int = 1,
    ) -> None:
        """``servers``: how many there are to ask for a port, before it is given up."""
        super().__init__(leases, end)
        self._servers = servers
        self._ports_refused = 0
        self._was_addressed = False
        self._stdout = stdout
        self._line = line
        self._as_json = as_json
        self._clock = clock
        self._outages = Outages()
        self.connection = Connecting()
        """For the live line, as long as there is nothing better to show."""

    # ------------------------------------------------------------ where to

    def _tell(self, event: str, line: str = "", **fields: Any) -> None:
        """``line`` is for people and may be empty, the rest for programs."""
        if "reason" in fields:
            fields["reason"] = printable(fields["reason"], LONGEST_LINE_CHARACTERS)
        if line:
            self.say(line)
        if self._as_json:
            self._print(_event(event, **fields))

    def say(self, line: str) -> None:
        """One line on stderr, with the time of day."""
        self._line.say(f"{datetime.now():%H:%M:%S} {line}")

    def _print(self, line: str) -> None:
        self._line.clear()  # both may be the same terminal
        with suppress(OSError):  # whoever read has gone (`| head -1`); what is exposed stays so
            self._stdout.write(line + "\n")
            self._stdout.flush()

    # -------------------------------------------------------------- events

    def started(self, key_file: Path, fingerprint: str, *, new_key: bool = False) -> None:
        """The key is there; nothing is connected yet."""
        self._tell(
            "started",
            f"new key {fingerprint} made in {key_file}: no address is leased to it yet"
            if new_key
            else f"key {fingerprint} in {key_file}",
            key_file=str(key_file),
            fingerprint=fingerprint,
            new_key=new_key,
        )

    def connecting(self, server: str) -> None:
        """Each attempt would be too much to say; the live line has it."""
        self.connection.dialling(server)

    def connected(self, server: str, local_address: str) -> None:
        """The address follows, or a refusal."""
        self.connection.connected()
        line = f"connected to {server}" if self._outages.connected() else ""
        self._tell("connected", line, server=server)

    def addressed(self, lease: NodeLease, *, changed: bool) -> None:
        """The one line that scripts wait for; after a mere reconnect it is not repeated."""
        self._was_addressed = True
        fields: dict[str, Any] = {"target": lease.origin, "address": lease.address}
        self.connection.reachable()
        self._outages.well(self._clock.seconds())
        if not changed:
            line = (
                f"{lease.origin} is reached at {lease.address} again"
                if self._outages.is_told
                else ""
            )
            self._tell("resumed", line, **fields)
        elif self._as_json:
            self._tell("exposed", **fields)
        else:
            self._print(printable(f"exposed {lease.origin} at {lease.address}"))

    def port_unavailable(self, lease: NodeLease, error: RefusedError) -> None:
        """Any other with --port-or-any; else the end, unless there was an address before."""
        self._ports_refused += 1
        ends = not (lease.port_or_any or self._was_addressed)
        ends = ends and self._ports_refused >= self._servers
        what = "asking for any other" if lease.port_or_any else "it will be asked for again"
        self._tell(
            "port_unavailable",
            f"port {lease.wanted_port} is unavailable ({error}); "
            + ("--port-or-any would take any other" if ends else what),
            target=lease.origin,
            port=lease.wanted_port,
            reason=str(error),
        )
        if ends:
            self._tell("gave_up", reason=str(error))
            self._lost(self._leases, error)

    def lease_delayed(self, lease: NodeLease, error: RefusedError, retry_seconds: float) -> None:
        """The others of this node go on."""
        self.connection.delayed(str(error))
        self._tell(
            "delayed",
            f"no address for {lease.origin} yet: {error}; asking again in {in_time(retry_seconds)}",
            target=lease.origin,
            reason=str(error),
            retry_seconds=round(retry_seconds, 3),
        )

    def lease_refused(self, lease: NodeLease, error: RefusedError) -> None:
        """Final for this target."""
        if is_superseded(error):
            self._superseded(error, lease.origin)
        else:
            self._tell(
                "refused",
                f"no address for {lease.origin}: {error}",
                target=lease.origin,
                reason=str(error),
            )
        self._lost(1, error)

    def _superseded(self, error: ProxyServiceError, target: str | None) -> None:
        what = f" {target}" if target else ""
        line = f"superseded: another process with this key took over{what} ({error})"
        self._tell("superseded", line, target=target, reason=str(error))

    def disconnected(self, server: str, error: ProxyServiceError, retry_seconds: float) -> None:
        """Said when it begins, then ever more seldom; that somebody else answers, each time."""
        if not self._leases:
            return  # this is the end, and the reason was told
        now, kind, reason = self._clock.seconds(), kind_of(error), str(error).rstrip(".")
        self.connection.lost(server, reason, now + retry_seconds)
        count = self._outages.lost(server, kind.name, now, loud=kind is Kind.PIN)
        line = f"{server}: {reason}; trying again in {in_time(retry_seconds)}" if count else ""
        self._tell(
            "disconnected",
            line + (f" ({count} attempts)" if count > 1 else ""),
            server=server,
            reason=reason,
            retry_seconds=round(retry_seconds, 3),
        )

    def target_down(self, target: str, reason: str, *, visitors: int = 1) -> None:
        """The visitors saw a clean close."""
        reason = reason.rstrip(".")
        more = f" ({visitors} visitors closed)" if visitors > 1 else ""
        more = more if visitors else "; its visitors are closed until it is there"
        self._tell(
            "target_down",
            f"target {target} is down: {reason}{more}",
            target=target,
            reason=reason,
            visitors=visitors,
        )

    def released(self, lease: NodeLease) -> None:
        """Whoever comes next may get it."""
        fields: dict[str, Any] = {"target": lease.origin, "address": lease.address}
        self._tell("released", f"{lease.address} was released", **fields)

    def not_released(self, lease: NodeLease) -> None:
        """Nobody could be told."""
        self._tell(
            "not_released",
            f"{lease.address} was not released: no connection; it stays remembered",
            target=lease.origin,
            address=lease.address,
        )

    def gave_up(self, error: ProxyServiceError) -> None:
        """The exit status says the same (docs/node.md)."""
        if is_superseded(error):
            self._superseded(error, None)
        else:
            self._tell("gave_up", f"giving up: {error}", reason=str(error))
        self._lost(self._leases, error)

    def ended(self, traffic: Traffic) -> None:
        """The last word."""
        self._tell(
            "ended",
            f"ended: {summary_line(traffic)}",
            visitors_total=traffic.visitors_total,
            bytes_in=traffic.bytes_in,
            bytes_out=traffic.bytes_out,
        )
