"""The protocol's bytes: frames, compression, messages, identities, proofs.

Nothing in here knows Twisted, a socket or a clock.
"""
