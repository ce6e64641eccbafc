"""The client of the service, as a library.

`Node` opens the main connection, has its leases granted, receives and sends
messages; `ProxiedServerEndpoint` is a Twisted server endpoint at a proxy
address. Everything else in here is theirs (docs/node.md).
"""
