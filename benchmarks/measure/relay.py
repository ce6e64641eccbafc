"""Message relay: frames a second, bytes a second, and one frame's way (``csource/relayload.c``)."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

from benchmarks import tools
from benchmarks.measure.base import SPARE_SECONDS, Cost, Row, Scale
from benchmarks.origin import Ports
from benchmarks.peers.base import Peer
from benchmarks.peers.proxyservice import start_server
from benchmarks.processes import run, wait_until

START_SECONDS = 20.0
LEASE_PORTS = 16
VISITORS = (1, 8)
# Payloads in bytes, how the table names them, and what counts at that size.
SMALL = ((64, "64 B"), (1024, "1 KiB"))
LARGE = ((65536, "64 KiB"), (1 << 20, "1 MiB"))
ONE_IN_FLIGHT = 0  # instead of a number of visitors


def _rows() -> list[Row]:
    rows = []
    for sizes, what, unit in ((SMALL, "frames", "frames/s"), (LARGE, "bytes", "GB/s")):
        for size, named in sizes:
            for visitors in VISITORS:
                who = "visitor" if visitors == 1 else "visitors"
                title = f"message relay, {what} of {named} payload, {visitors} {who}"
                rows.append(Row(f"relay_{size}_{visitors}", title, unit))
    title = "message relay, one way of a frame of 64 B, p50"
    return [*rows, Row("relay_one_way", title, "us", False)]


class MessageRelay(Cost):
    """One node, and its visitors; both ends of the load are one program."""

    name = "relay"
    rows = tuple(_rows())

    def measure(self, peer: Peer, origin: Ports, scale: Scale) -> dict[str, float]:
        main = start_server(peer, LEASE_PORTS)
        host, _, port = main.rpartition(":")
        wait_until(lambda: _accepts(host, int(port)), START_SECONDS, "the server to accept")

        def load(size: int, visitors: int, seconds: float = scale.relay_seconds) -> dict[str, Any]:
            program = tools.compiled("relayload", peer.scene.directory)
            command = [program, host, port, str(size), str(visitors), f"{seconds:g}"]
            result: dict[str, Any] = json.loads(
                run(peer.scene.relay.command(command), seconds + SPARE_SECONDS)
            )
            return result

        figures = {}
        for sizes, figure in ((SMALL, "frames_per_second"), (LARGE, "gigabytes_per_second")):
            for size, _ in sizes:
                for visitors in VISITORS:
                    if scale.warm_up_seconds:
                        load(size, visitors, scale.warm_up_seconds)
                    figures[f"relay_{size}_{visitors}"] = load(size, visitors)[figure]
        figures["relay_one_way"] = load(SMALL[0][0], ONE_IN_FLIGHT)["p50_us"]
        return figures


def _accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1.0):
        return True
    return False
