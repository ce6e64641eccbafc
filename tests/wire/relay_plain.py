"""What a visitor may send, judged by protobuf on the whole of a body and by nothing else."""

from __future__ import annotations

import re

from proxyservice.errors import FrameError
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.parsing import parse
from tests.wire.bodies import NET


def expected(body: bytes) -> bool:
    """Whether a visitor may send this body, by protobuf on the whole of it and nothing else."""
    try:
        message = parse(pb.Message, body)
    except FrameError:
        return False
    if message.opcode in (0, 9, 15) or 32 <= message.opcode <= 63 or message.netID != NET:
        return False
    if message.sender.net_key in (b"", b"PORTER_TCP_NETKEY", b"PORTER_UDP_NETKEY"):
        return False
    scheme, mark, rest = message.sender.address.partition("://")
    host, colon, port = rest.rpartition(":")
    if not mark or not colon or scheme not in ("tcp", "udp", "kcp", "quic"):
        return False
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        return False
    if host.startswith("[") and host.endswith("]"):
        return bool(re.fullmatch(r"[0-9A-Fa-f:.%\w]+", host[1:-1]))
    return bool(host) and not re.search(r"[\s/:\[\]]", host)
