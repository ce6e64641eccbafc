"""Leases: which identity has which port, until when, and that a crash changes nothing.

Rules, without clock, Twisted or SQL: `lease.py` (what a lease is), `table.py`
(who gets which port), `index.py`, `unleased.py`, `port_set.py`, `quota.py` and `due.py`
(what the table is made of), `rows.py` (what of a lease is stored), `buckets.py` and
`lines.py` (how often things may happen, and be told).

Around them: `schema.py`, `store.py`, `reading.py` and `copying.py` (SQL), `commits.py` (when
to write), `record.py` (table to rows and back), `registry.py` (the Twisted
service that joins all of it).
"""
