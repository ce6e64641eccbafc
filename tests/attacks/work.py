"""What makes a service, or a node, work hard: few bytes to send, many to read (D1 to D3).

Each is one connection's input without an end; `Flood` sends it, reads nothing,
and comes again when it is closed.
"""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.compression import compress
from proxyservice.wire.envelope import Opcode, encode_message
from proxyservice.wire.framing import encode_frame
from tests.attacks.kit import NET, application_frame, keepalive, proxy_request, sender

TOP = Path(__file__).parents[2]

Input = tuple[bytes, bytes]
"""What to say once, and what to say again and again."""


def long_keys(number: int) -> Input:
    """A claimed key of 250 KiB, compressed to nearly nothing (D1)."""
    key = number.to_bytes(8, "big") + bytes(250 << 10)
    who = pb.ID(net_key=key, address="tcp://h:1", connection_id=number.to_bytes(8, "big"))
    request = encode_message(
        NET, Opcode.PROXY_REQUEST, pb.ProxyRequest(), sender=who, algorithm=2, compressed=True
    )
    return b"", request


def echoes(number: int, algorithm: int = 2) -> Input:
    """A compressed probe that asks for 60,000 bytes back (D2)."""
    metric = pb.MetricRequest(raw_data=bytes(60_000))
    again = encode_message(
        NET, Opcode.METRIC_REQUEST, metric, sender=sender(number), algorithm=algorithm,
        compressed=True, request_nonce=1,
    )  # fmt: skip
    return proxy_request(number), again


def small_echoes(number: int) -> Input:
    """Probes of the largest size that is allowed, as they are."""
    metric = pb.MetricRequest(raw_data=bytes(4096))
    again = encode_message(NET, Opcode.METRIC_REQUEST, metric, sender=sender(number))
    return proxy_request(number), again


def strangers_echoes(number: int) -> Input:
    """Probes before anything else was said."""
    return b"", echoes(number)[1]


def releases(number: int) -> Input:
    """A compressed Release of an address that is nobody's; part B answers it."""
    hello = pb.Hello(version=1, client_nonce=bytes(32), features=1 << pb.FEATURE_RELEASE)
    first = encode_message(NET, Opcode.HELLO, hello, sender=sender(number))
    first += encode_message(
        NET, Opcode.PROXY_REQUEST, pb.ProxyRequest(), sender=sender(number), request_nonce=1
    )
    release = pb.Release(origin_address="a" * 60_000)
    return first, encode_message(
        NET, Opcode.RELEASE, release, sender=sender(number), algorithm=2, compressed=True,
        request_nonce=2,
    )  # fmt: skip


def crumbs(field: bytes, algorithm: int = 2, inflated_bytes: int = 254_000) -> bytes:
    """A good keepalive behind many smallest fields, compressed."""
    body = field * (inflated_bytes // len(field)) + keepalive(1)[10:]
    return encode_frame(NET, bytes(compress(algorithm, body)), flag=1, algorithm=algorithm)


def empty_fields(number: int) -> Input:
    """316 bytes that inflate to 127,000 fields (D3)."""
    return proxy_request(number), crumbs(b"\x5a\0")


def empty_senders(number: int) -> Input:
    return b"", crumbs(b"\x12\0")


def requests_of_26_bytes(number: int) -> Input:
    """As short as a message of the main port can be."""
    body = pb.Message(opcode=Opcode.KEEPALIVE, netID=NET)
    body.sender.net_key, body.sender.address = b"k", "a"
    request = pb.Message.FromString(body.SerializeToString())
    request.opcode = Opcode.PROXY_REQUEST
    return (
        encode_frame(NET, request.SerializeToString()),
        encode_frame(NET, body.SerializeToString()),
    )


def clear_codes(number: int) -> Input:
    """LZW that says CLEAR and nothing else, as much as a frame may hold."""
    body = (b"\x80\x40\x20\x10\x08\x04\x02\x01\x00" * (60_000 // 9))[:60_000]
    return b"", encode_frame(NET, body, flag=1, algorithm=4)


def empty_members(number: int) -> Input:
    """Gzip members of nothing."""
    body = gzip.compress(b"", mtime=0) * 3000
    return b"", encode_frame(NET, body, flag=1, algorithm=2)


MAIN_PORT: dict[str, Callable[[int], Input]] = {
    call.__name__: call
    for call in (
        *(empty_fields, empty_senders, requests_of_26_bytes, clear_codes, empty_members),
        *(echoes, small_echoes, strangers_echoes, releases, long_keys),
    )
}


def crumbled_frames(number: int) -> bytes:
    """A visitor's frame of 4 KiB of two-byte fields, good in every way."""
    return encode_frame(NET, b"\x5a\0" * 2040 + application_frame(b"x", number)[10:])


def changing_senders(number: int) -> bytes:
    """Frames of which none is like the one before."""
    return b"".join(application_frame(b"", number + one) for one in range(400))


def large_crumbs(number: int) -> bytes:
    """A frame of nearly 1 MiB of the fields that take longest."""
    return encode_frame(NET, b"\x12\0" * (500 << 10) + application_frame(b"x", number)[10:])


def tiny_frames(number: int) -> bytes:
    """The smallest that is good, again and again."""
    body = pb.Message(opcode=1000, netID=NET)
    body.sender.net_key, body.sender.address = b"k", "tcp://h:1"
    return encode_frame(NET, body.SerializeToString())


def unread_bodies(number: int) -> bytes:
    """Compressed by their header alone; a relay does not look into them."""
    return encode_frame(NET, b"\0", flag=1, algorithm=4)


PROXY_PORT: dict[str, Callable[[int], bytes]] = {
    call.__name__: call
    for call in (crumbled_frames, changing_senders, large_crumbs, tiny_frames, unread_bodies)
}


class Flood:
    """Threads that say something to a port for as long as the block lasts."""

    def __init__(
        self,
        address: tuple[str, int],
        inputs: list[Input],
        *,
        source: str = "",
        reads: bool = False,
    ) -> None:
        self._address, self._source = address, source
        self._over = threading.Event()
        self.sent_bytes = 0
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in inputs]

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, said: Input) -> None:
        while not self._over.is_set():
            with suppress(OSError):
                self._once(said)
            self._over.wait(0.02)

    def _once(self, said: Input) -> None:
        first, again = said
        data = memoryview(again * max(1, (1 << 16) // len(again)))
        with socket.create_connection(self._address, 5, (self._source, 0)) as peer:
            if first:
                peer.sendall(first)
                peer.recv(1 << 16)
            peer.settimeout(0.2)
            at = 0
            while not self._over.is_set():
                with suppress(TimeoutError):
                    sent = peer.send(data[at:])
                    self.sent_bytes += sent
                    at = (at + sent) % len(data)


def flooding(port: int, names: list[str], seconds: float, source: str) -> subprocess.Popen[bytes]:
    """A process that sends these inputs, two connections each: it takes no time of its caller's."""
    arguments = [str(port), str(seconds), source, *names]
    return subprocess.Popen([sys.executable, "-m", "tests.attacks.work", *arguments], cwd=TOP)


def main(port: str, seconds: str, source: str, *names: str) -> None:
    inputs = []
    for number, name in enumerate(names):
        for one in (100 + 2 * number, 101 + 2 * number):
            is_main = name in MAIN_PORT
            inputs.append(MAIN_PORT[name](one) if is_main else (b"", PROXY_PORT[name](one)))
    with Flood(("127.0.0.1", int(port)), inputs, source=source):
        time.sleep(float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
