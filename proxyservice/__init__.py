"""A relay that leases public addresses to nodes behind NAT.

`wire` has the bytes, `leases` who has which port, `net` transports and
deadlines, `server` the service itself, `tap` the options and the wiring.
docs/architecture.md shows how they fit.
"""

__version__ = "0.1.0.dev0"
