"""Leases: which identity has which port, until when, and that a crash changes nothing.

`lease.py` and `table.py` are the rules (no clock, no Twisted); `store.py`
keeps rows; `registry.py` is the Twisted service that joins them.
"""
