"""Certificates and programs, as in tests/server."""

from tests.server.conftest import authority, started

__all__ = ["authority", "started"]
