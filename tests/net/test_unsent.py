"""The kernel's unsent bytes: half of what the path holds, within bounds."""

from __future__ import annotations

import socket
import struct

import pytest

from proxyservice.net.unsent import (
    LEAST_UNSENT_BYTES,
    LOOK_EVERY_BYTES,
    MOST_UNSENT_BYTES,
    UnsentBound,
    path_bytes,
)

MIB = 1024 * 1024


def tcp_info(round_trip_us: int, bytes_a_second: int) -> bytes:
    return struct.pack("148xI8xQ80x", round_trip_us, bytes_a_second)


class Path:
    """Stands in for a transport and its socket: the kernel's answers cannot be chosen."""

    def __init__(self, info: bytes) -> None:
        self.info = info
        self.bounds: list[int] = []
        self.looks = 0

    def getHandle(self) -> Path:
        return self

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        self.looks += 1
        return self.info[:size]

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        self.bounds.append(value)


@pytest.mark.parametrize(
    ("round_trip_us", "rate", "bound"),
    [
        (50_000, 40 * MIB, MIB),  # a long fat path
        (50, 1700 * MIB, None),  # loopback: the least will do
        (50_000, MIB, None),  # a long thin one
        (300_000, 400 * MIB, MOST_UNSENT_BYTES),
    ],
)
def test_half_of_what_the_path_holds(round_trip_us: int, rate: int, bound: int | None) -> None:
    path = Path(tcp_info(round_trip_us, rate))
    UnsentBound(path).sent(LOOK_EVERY_BYTES)
    assert path.bounds == ([] if bound is None else [bound])


def test_it_goes_up_at_once_and_down_by_eighths() -> None:
    path = Path(b"")
    unsent = UnsentBound(path)
    for look, rate in enumerate((20, 40, 40, 1, 40, 1, 38), 1):
        path.info = tcp_info(50_000, rate * MIB)
        unsent.sent(look * LOOK_EVERY_BYTES)
    assert path.bounds == [n * MIB // 160 for n in (80, 160, 140, 160, 140, 152)]


def test_of_a_path_that_became_short_the_least_is_left() -> None:
    path = Path(tcp_info(50_000, 400 * MIB))
    unsent = UnsentBound(path)
    unsent.sent(LOOK_EVERY_BYTES)
    path.info = tcp_info(50, MIB)
    for look in range(2, 40):
        unsent.sent(look * LOOK_EVERY_BYTES)
    assert (path.bounds[0], path.bounds[-1]) == (MOST_UNSENT_BYTES, LEAST_UNSENT_BYTES)


def test_it_looks_once_for_so_many_bytes() -> None:
    path = Path(tcp_info(0, 0))
    unsent = UnsentBound(path)
    for sent in range(0, 4 * LOOK_EVERY_BYTES + 1, LOOK_EVERY_BYTES // 8):
        unsent.sent(sent)
    assert path.looks == 4


def test_a_kernel_that_tells_less_changes_nothing() -> None:
    path = Path(tcp_info(50_000, 40 * MIB)[:104])
    UnsentBound(path).sent(LOOK_EVERY_BYTES)
    assert path.bounds == []


def test_a_real_connection_tells_what_its_path_holds() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
        server.accept()[0] as far,
    ):
        for _ in range(100):
            near.sendall(bytes(10_000))
            far.recv(10_000, socket.MSG_WAITALL)
        info = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 168)
    assert 0 < path_bytes(info) < 100 * MIB


def test_what_is_closed_is_left_alone() -> None:
    near, far = socket.socketpair()
    far.close()
    near.close()

    class Closed:
        def getHandle(self) -> socket.socket:
            return near

    UnsentBound(Closed()).sent(LOOK_EVERY_BYTES)
