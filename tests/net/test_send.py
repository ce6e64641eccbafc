"""Both ways to `send` do the same: the socket's own, and the C library's that PyPy uses."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from proxyservice.net.send import Send, lending_send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["socket", "lending"])
def send(request: pytest.FixtureRequest) -> Send:
    if request.param == "socket":
        return socket.socket.send
    pytest.importorskip("cffi")
    return lending_send()


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_arrive_from_whatever_holds_them(send: Send, pair: Pair, kind: type) -> None:
    near, far = pair
    assert send(near, kind(b"hello")) == 5
    assert far.recv(10) == b"hello"


def test_of_a_slice_its_own_bytes_arrive(send: Send, pair: Pair) -> None:
    near, far = pair
    view = memoryview(bytearray(b"header and payload"))
    assert send(near, view[7:10]) == 3
    assert far.recv(10) == b"and"


def test_a_full_socket_takes_a_part_and_then_says_not_now(send: Send, pair: Pair) -> None:
    near, far = pair
    data = bytes(range(256)) * 40_000
    taken = send(near, data)
    assert 0 < taken < len(data)
    with pytest.raises(BlockingIOError):
        send(near, data[taken:])
    assert far.recv(taken, socket.MSG_WAITALL) == data[:taken]


@pytest.mark.parametrize(("closed", "code"), [(0, errno.EBADF), (1, errno.EPIPE)])
def test_a_closed_socket_and_a_broken_pipe_are_errors_and_no_signal(
    send: Send, pair: Pair, closed: int, code: int
) -> None:
    pair[closed].close()
    with pytest.raises(OSError, match=r".") as caught:
        send(pair[0], b"x")
    assert caught.value.errno == code
