"""The service's side: main connections, proxy ports, visitors, limits.

`service.py` is the whole; `main.py` the connection of one node; `ports.py`
the listening sockets of leases; `relay_visitor.py` what arrives there.
"""
