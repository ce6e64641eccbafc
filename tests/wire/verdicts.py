"""What is read in bodies that nobody sane writes; as a program it prints that, a line for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from random import Random

from google.protobuf.message import Message

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import PAYLOADS
from proxyservice.wire.parsing import OVERLOOKS_LONG_TAGS, parse
from tests.wire.bodies import odd_body

KINDS: list[type[Message]] = [pb.Message, pb.ID, *PAYLOADS.values()]
READ = [kind for kind in KINDS if kind.DESCRIPTOR.fields]
"""What has no fields is never parsed; there, field number 0 is nobody's business."""

REFUSED = "refused"


def bodies(seed: int, count: int) -> Iterator[tuple[type[Message], bytes]]:
    """So many bodies, every second a Message, the others to be read as any kind."""
    random = Random(seed)
    for index in range(count):
        yield (random.choice(READ) if index % 2 else pb.Message), odd_body(random)


def verdict(kind: type[Message], body: bytes) -> str:
    """The known fields that are read, or `REFUSED`."""
    try:
        message = parse(kind, body)
    except FrameError:
        return REFUSED
    message.DiscardUnknownFields()
    return message.SerializeToString().hex()


def main(seed: str, count: str) -> None:
    """Print the verdicts of protobuf in plain Python."""
    assert OVERLOOKS_LONG_TAGS, os.environ
    for kind, body in bodies(int(seed), int(count)):
        print(verdict(kind, body))


if __name__ == "__main__":
    main(*sys.argv[1:])
