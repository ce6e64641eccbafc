"""Two-way streams on one main connection: windows, states, the multiplexer, fairness.

Nothing in here knows Twisted, a socket or a clock, and payload never enters:
the multiplexer counts bytes, it does not carry them.
"""
