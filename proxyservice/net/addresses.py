"""One spelling for each address, and `host:port` as people write it."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address


@lru_cache(maxsize=4096)  # the same few visitors and nodes come again and again
def canonical(host: str) -> str:
    """Return the one spelling of an IP address; IPv4-mapped IPv6 becomes IPv4.

    What is no IP address (a name, a path) is returned in lower case.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower()
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def is_private(host: str) -> bool:
    """Whether an address means nothing outside its own network; names are taken as public."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return False


def format_host_port(host: str, port: int) -> str:
    """`host:port`, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
