"""Who is let in and what it may do, as files of the operator say now; asked at each use.

Knows no connection: it says what holds for a `Caller`, and when to ask again.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TypeVar

from twisted.logger import Logger

from proxyservice.errors import RefusedError, StartError
from proxyservice.leases.lease import Lease, LeaseQuota, Shown
from proxyservice.leases.quota import KNOWN, counted_source, token_pool
from proxyservice.leases.registry import Judgement
from proxyservice.server.policy import Policy
from proxyservice.server.rules import Rules
from proxyservice.server.tokens import KnownToken, Tokens
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.identity import key_fingerprint

UNLIMITED = 1 << 31
"""Leases: more than there are ports."""

MOST_NAMES = 8
"""Names of a certificate that are stored with a lease."""

log = Logger()

_File = TypeVar("_File", Tokens, Policy)


@dataclass(frozen=True, slots=True)
class Caller:
    """What a node has shown of itself, beside what its leases belong to."""

    key: str = ""  # fingerprint of the proved key
    token: KnownToken | None = None
    certificates: tuple[str, ...] = ()  # names in the one it showed on TLS

    @property
    def token_name(self) -> str:
        """Of whom its token was given to; empty without one."""
        return "" if self.token is None else self.token.name

    @property
    def shown(self) -> Shown:
        """What its leases keep of it, so that the files can be asked when it is gone."""
        fit = (name for name in self.certificates if name.isprintable() and len(name) < 256)
        return Shown(self.token_name, tuple(fit)[:MOST_NAMES])


NOBODY = Caller()
"""A node that claims who it is."""


class Access:
    """The operator's files; ``wall`` is the wall clock, by which tokens end.

    Raises StartError for a file that cannot be used.
    """

    def __init__(
        self,
        token_file: Path | None = None,
        policy_file: Path | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._token_file = token_file
        self._policy_file = policy_file
        self._wall = wall
        self._tokens = None if token_file is None else Tokens.read(token_file)
        self._policy = Policy() if policy_file is None else Policy.read(policy_file)
        self._looked_at = wall()

    @property
    def wants_tokens(self) -> bool:
        """A proof is not enough here."""
        return self._tokens is not None

    @property
    def has_policy(self) -> bool:
        """What a node may do can change."""
        return self._policy_file is not None

    @property
    def own_ports(self) -> frozenset[int]:
        """Ports that belong to one entry of the policy each."""
        return self._policy.own_ports

    def on_own_port(self, lease: Lease) -> bool:
        """Whether its port belongs to its key: then it never expires.

        Of a token's or a certificate's port the lease alone does not tell whose it is.
        """
        identity = lease.owner.identity
        key = key_fingerprint(identity.net_key) if identity.proved else ""
        return self._policy.rules(key, "", ()).port == lease.port

    def reload(self) -> None:
        """Use what the files hold now; one that is bad changes nothing but the log."""
        self.read_again()()

    def read_again(self) -> Callable[[], None]:
        """Read the files, on any thread; what is returned makes that count, on the reactor's."""
        tokens = _read_again(self._token_file, Tokens.read)
        policy = _read_again(self._policy_file, Policy.read)
        return partial(self._use, tokens, policy)

    def _use(self, tokens: Tokens | StartError | None, policy: Policy | StartError | None) -> None:
        for path, read in ((self._token_file, tokens), (self._policy_file, policy)):
            if isinstance(read, StartError):
                log.error("what was read before stays in use: {error}", error=read)
            elif read is not None:
                log.info("{path} was read again", path=path)
        if isinstance(tokens, Tokens):
            self._tokens = tokens
        if isinstance(policy, Policy):
            self._policy = policy

    # ------------------------------------------------------------ who is let in

    def admit(
        self, key: str, proof: pb.Proof, signed: bytes, certificates: tuple[str, ...]
    ) -> Caller:
        """Who made this Proof, under that key, over these bytes. Raises RefusedError."""
        token = None
        if self._tokens is not None:
            token = self._tokens.verify(proof, signed, self._wall())
        caller = Caller(key, token, certificates)
        self.check(caller)
        return caller

    def check(self, caller: Caller) -> None:
        """Whether who was let in still would be. Raises RefusedError."""
        if self._tokens is not None and caller.token is not None:
            self._tokens.check(caller.token, self._wall())
        rules = self.rules(caller)
        if rules.admit is False:
            whose = f" with key {caller.key}" if caller.key else ""
            reason = f"the relay's policy does not admit this node{whose}: `admit` there lifts it"
            raise RefusedError(pb.REFUSAL_DENIED, reason)
        if rules.keys is not None and caller.key not in rules.keys:
            reason = (
                f"key {caller.key} is not one of its token or certificate: `keys` in the relay's "
                "policy has those"
            )
            raise RefusedError(pb.REFUSAL_DENIED, reason)

    def has_ended(self) -> bool:
        """Whether a token has ended since this was asked last: then callers are to be checked."""
        before, self._looked_at = self._looked_at, self._wall()
        if self._tokens is None:
            return False
        ends = self._tokens.ends
        return bisect_right(ends, before) != bisect_right(ends, self._looked_at)

    # --------------------------------------------------------- what it may do

    def rules(self, caller: Caller) -> Rules:
        """What holds for this node now."""
        return self._policy.rules(caller.key, caller.token_name, caller.certificates)

    def rules_while_away(self, lease: Lease) -> Rules:
        """The same for a node that is away, from what its lease keeps of it."""
        identity, shown = lease.owner.identity, lease.shown
        key = key_fingerprint(identity.net_key) if identity.proved else ""
        return self._policy.rules(key, shown.token, shown.certificates)

    def quota(self, caller: Caller, usual: LeaseQuota | None) -> LeaseQuota | None:
        """How many leases it may have; None: any number.

        ``usual`` is for strangers: whoever has a token or an entry is limited by that alone.
        A token's leases are counted together, whichever keys they belong to.
        """
        rules = self.rules(caller)
        known = caller.token is not None or self._has_entry(caller)
        if rules.leases is None:
            return None if known else usual
        if caller.token is not None:
            lifted = f"`leases` of tokens.{caller.token_name} in --policy"
            return LeaseQuota(UNLIMITED, rules.leases, UNLIMITED, source_lifted_by=lifted)
        if known or usual is None:
            lifted = "`leases` of its entry in --policy"
            return LeaseQuota(rules.leases, UNLIMITED, UNLIMITED, key_lifted_by=lifted)
        lifted = "`leases` in --policy, or an entry there"
        return replace(usual, per_key=rules.leases, key_lifted_by=lifted)

    def charged_to(self, caller: Caller) -> str | None:
        """What its leases count for; None: the address that it comes from."""
        if caller.token is not None:
            return token_pool(caller.token_name)
        return KNOWN if self._has_entry(caller) else None

    def _has_entry(self, caller: Caller) -> bool:
        return self._policy.has_entry(caller.key, caller.token_name, caller.certificates)

    # ---------------------------------------------- of leases whose node is gone

    def judge(self, lease: Lease) -> Judgement:
        """What the files say of a lease, from what it keeps of its node.

        Revoked is a lease whose node the policy does not admit, or whose token's name is in no
        line of the token file any more. A token that has ended, or is needed now and was not,
        may be replaced: visitors do not wait for such a node, and its address stays.
        """
        identity, shown = lease.owner.identity, lease.shown
        key = key_fingerprint(identity.net_key) if identity.proved else ""
        rules = self.rules_while_away(lease)
        denied = rules.admit is False or (rules.keys is not None and key not in rules.keys)
        ends = self._tokens.ends_of(shown.token) if self._tokens is not None else inf
        known = self._policy.has_entry(key, shown.token, shown.certificates)
        return Judgement(
            charged_to=_pool(lease, known=known),
            admitted=ends is not None and self._wall() < ends,
            revoked=denied or (bool(shown.token) and ends is None),
        )


def _pool(lease: Lease, *, known: bool) -> str:
    token = lease.shown.token
    if token or known:
        return token_pool(token) if token else KNOWN
    # Perhaps it has counted for where it was before, for want of room.
    return counted_source(lease.source) if lease.charged_to == KNOWN else lease.charged_to


def _read_again(path: Path | None, read: Callable[[Path], _File]) -> _File | StartError | None:
    try:
        return None if path is None else read(path)
    except StartError as error:
        return error
