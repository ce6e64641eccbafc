"""What a node asks for, read and checked: a lease, in a mode, on a port."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxyservice.errors import FrameError, RefusedError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.bounds import LABEL_BYTES, ORIGIN_BYTES

ORIGIN_LIMIT_BYTES = ORIGIN_BYTES
LABEL_LIMIT_BYTES = LABEL_BYTES

_WANTED = re.compile(r"(?:.*:)?([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What a node asks for; `nonce` is None from a node of part A."""

    origin: str
    nonce: int | None = None
    mode: int = pb.MODE_MESSAGES
    wanted_port: int | None = None
    label: str = ""

    @classmethod
    def part_a(cls, request: pb.ProxyRequest) -> LeaseRequest:
        """Take the origin address and nothing else. Raises FrameError when it is too long."""
        if len(request.origin_address.encode()) > ORIGIN_LIMIT_BYTES:
            raise FrameError(f"an origin address over {ORIGIN_LIMIT_BYTES} bytes")
        return cls(request.origin_address)

    @classmethod
    def part_b(cls, request: pb.ProxyRequest, nonce: int) -> LeaseRequest:
        """Take everything. Raises FrameError, and RefusedError for what cannot be granted."""
        origin = cls.part_a(request).origin
        if len(request.label.encode()) > LABEL_LIMIT_BYTES:
            raise FrameError(f"a label over {LABEL_LIMIT_BYTES} bytes")
        if request.mode not in (pb.MODE_MESSAGES, pb.MODE_STREAMS):
            raise RefusedError(pb.REFUSAL_DENIED, f"mode {request.mode} is unknown here")
        wanted_port = None
        if request.proxy_address:
            match = _WANTED.fullmatch(request.proxy_address)
            if match is None:
                raise RefusedError(
                    pb.REFUSAL_ADDRESS_UNAVAILABLE, "the wanted address is no host:port or :port"
                )
            wanted_port = int(match[1])
        return cls(origin, nonce, request.mode, wanted_port, request.label)
