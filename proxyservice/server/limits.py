"""Every limit of the service, with its unit and the reason for its value.

One frozen object travels from the options to whoever enforces a limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxyservice.leases.lines import LINES_PER_SECOND
from proxyservice.net.keepalive import (
    KEEPALIVE_IDLE_SECONDS,
    USER_TIMEOUT_SECONDS,
    VANISHED_SECONDS,
)
from proxyservice.server.ports import BACKLOG
from proxyservice.streams.multiplexer import STREAMS_LIMIT
from proxyservice.wire.envelope import INFLATED_LIMIT_BYTES
from proxyservice.wire.framing import CONTROL_FRAME_BYTES

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Defaults are those of docs/operations.md; all values are per connection unless named."""

    # A ProxyRequest or Hello is 150 bytes; libp2p's relay allows as much before identity.
    bytes_before_identity: int = 4 * KIB
    # Of whatever is no stream data, as it comes and inflated: control messages are small.
    control_frame_bytes: int = CONTROL_FRAME_BYTES
    inflated_frame_bytes: int = INFLATED_LIMIT_BYTES
    # Total, from the first byte: an idle timer could be fed one byte at a time.
    seconds_to_identity: float = 10.0
    # A reconnecting node may open a silent connection first (protocol.md, "Reconnecting").
    seconds_to_first_byte: float = 60.0
    # At the cap the oldest of the busiest source goes: OpenSSH's MaxStartups as the model.
    connections_without_identity: int = 400
    # Of one IPv4 address or IPv6 /56; at the cap its oldest goes.
    strangers_per_source: int = 16
    # Of these so many may say nothing, once they have had time to say something.
    silent_per_source: int = 2
    seconds_to_speak: float = 2.0
    # Of a source with a node: its nodes' redials leave silent ones behind (protocol.md).
    silent_spared_per_source: int = 32
    # Main connections taken in a second; the others wait in the backlog (frp #4802).
    connections_a_second: int = 1000
    # Of one source: what is beyond is closed as it comes, and nobody waits for it.
    connections_a_second_per_source: float = 50.0
    connection_burst_per_source: float = 200.0
    # Of one source, whoever they are; a team behind one address may have 64 proved leases.
    connections_per_source: int = 256
    # A connection that has none, proved or claimed, is of no use to its node.
    seconds_without_lease: float = 120.0
    # Of each listening socket, and no more than the kernel allows (net.core.somaxconn).
    backlog: int = BACKLOG
    # Of one live lease, from other addresses than its holder's. A node that changes networks
    # needs one or two; two nodes that fight would go on for ever (coturn GHSA-hpq3-g7x4-h7xx).
    takeover_burst: int = 5
    takeover_seconds: float = 10.0
    # Answers wait here for a peer that does not read; beyond, it is not read either.
    answers_high_bytes: int = 32 * KIB
    # A main connection that takes none of its queued bytes for so long is dead.
    write_stall_seconds: float = 30.0
    # Keepalives in a row that a node of part B may leave out (frp 90 s, porter 180 s).
    silent_keepalives: int = 3
    # TCP asks for a silent node after the one; unacknowledged data for the other is a dead path.
    tcp_keepalive_seconds: float = KEEPALIVE_IDLE_SECONDS
    tcp_unacknowledged_seconds: float = USER_TIMEOUT_SECONDS
    # A part-A node without a port would ask again at once; this spares both.
    close_after_refusal_seconds: float = 1.0
    # A close that does not finish (a peer that never reads) becomes an abort.
    close_timeout_seconds: float = 5.0
    # What waits for anybody, all together; in steps from 70 % on (libp2p, Envoy).
    memory_bytes: int = 512 * MIB
    # One source may hold so much of what the others leave: a half alone, a third each of two.
    memory_share_per_source: float = 0.5
    # The largest relayed frame; deployed nodes send 8 MiB as a matter of course.
    max_frame_bytes: int = 64 * MIB
    # Compressed bodies up to this size are inflated and checked; 0: none, and no bomb goes off.
    inflate_check_bytes: int = 0
    # A visitor's frame: 30 s and one second for each 64 KiB.
    frame_base_seconds: float = 30.0
    frame_bytes_per_second: int = 64 * KIB
    # A visitor whose TCP answers nothing for so long is gone, and so is its place.
    visitor_vanished_seconds: float = VANISHED_SECONDS
    visitors_per_lease: int = 1024
    # Open, of all leases of one main connection (yamux, Envoy); our nodes take no more.
    streams_per_connection: int = STREAMS_LIMIT
    # One address (of IPv6 its /56): open, new a second, and so many at once.
    visitors_per_source: int = 128
    visitor_rate_per_source: float = 100.0
    visitor_burst_per_source: float = 200.0
    # New visitors of one lease a second; 0: any number.
    visitor_rate_per_lease: float = 0.0
    # Of one lease, all its visitors and both directions together; 0: any number.
    lease_bytes_per_second: int = 0
    # Visitors whose node is away: each costs a descriptor, and none is read. No node may
    # fill the room, and the room no more than the visitors of one busy lease.
    waiting_per_lease: int = 64
    waiting_visitors: int = 1024
    # Requests of deployed nodes that wait for a port: they understand no refusal. Each costs a
    # connection; after ten minutes an operator should have seen the log.
    port_waiters: int = 256
    port_waiters_per_source: int = 4
    port_wait_seconds: float = 600.0
    # Lines of the log about nodes; as many about visitors. What a stranger can cause at will.
    refusals_logged_a_second: float = 20.0
    # The same about leases: whoever is let in can ask and release for ever.
    leases_logged_a_second: float = LINES_PER_SECOND
    # Leases that begin or move, a second and at once. Each is a row of the history; a node with
    # many targets begins as many, and who comes back begins none.
    lease_changes_per_key: float = 1.0
    lease_burst_per_key: float = 64.0
    # Of one source, of proved and claimed keys together, or of one token: three times its quota.
    lease_changes_per_source: float = 1.0
    lease_burst_per_source: float = 256.0
    # Requests of one connection that wait for the store.
    pending_requests: int = 64

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.streams_per_connection > STREAMS_LIMIT:
            raise ValueError(f"{STREAMS_LIMIT} at most, which is what nodes take")
        if not 0 < self.memory_share_per_source <= 1:
            raise ValueError("a share is above 0, and 1 at most")
