"""How many descriptors this process may open: as many as the system allows it."""

from __future__ import annotations

MOST = 1 << 20
"""Where the system names no limit: Linux's own default for one process."""

_SMALLER = (1 << 20, 1 << 16, 10_240)
"""To try in turn: macOS names no hard limit and refuses more than its own (OPEN_MAX, 10,240)."""


def raise_descriptor_limit() -> int | None:
    """Raise the soft limit to the hard one, and return it; None where there is no such limit.

    Shells and systemd give 1,024, macOS 256, and allow far more. For processes
    that are ours.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = hard == resource.RLIM_INFINITY
    for limit in (hard, *(_SMALLER if endless else ())):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        return MOST if limit == resource.RLIM_INFINITY else limit
    return soft
