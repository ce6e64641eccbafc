"""Transports, addresses and deadlines that server and node share."""
