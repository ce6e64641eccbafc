"""A revocation reaches leases whose node is away: held, remembered, and from before the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxyservice.leases.lease import Identity, LeaseTimes, Owner
from proxyservice.leases.registry import LeaseRegistry
from proxyservice.node.tokens import make_token
from proxyservice.server.access import Access
from proxyservice.wire import proxyservice_pb2 as pb
from proxyservice.wire.envelope import Opcode
from tests.leases.harness import Disk, Run, store_thread
from tests.server.memory import RawNode
from tests.server.test_policy import FAR, ONE, TWO, Operator

HOLD = LeaseTimes(hold=30.0)
REVOKED = f'[keys."{ONE}"]\nadmit = false'


@pytest.fixture(autouse=True)
def _no_thread() -> Iterator[None]:
    with store_thread():
        yield


def left(operator: Operator, node: RawNode) -> None:
    node.transport.abortConnection()
    operator.relay.pump()


def states(operator: Operator) -> dict[str, int]:
    counts = operator.relay.run.registry.counts()
    return {state: number for state, number in counts.items() if number and state != "free"}


def test_a_held_lease_of_a_revoked_key_ends_and_its_port_is_closed(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "", times=HOLD)
    node = operator.proved(1)
    port = node.lease(mode=pb.MODE_STREAMS)
    left(operator, node)
    assert operator.relay.visit(port) is not None, "visitors wait"
    operator.hangup(REVOKED)
    assert states(operator) == {"quarantined": 1}
    assert operator.relay.run.sockets.bound == set()
    assert operator.relay.visit(port) is None
    assert operator.relay.room.count == 0


def test_a_remembered_lease_of_a_revoked_key_ends_and_others_stay(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    one, two = operator.proved(1), operator.proved(2)
    one.lease()
    port = two.lease()
    left(operator, one)
    left(operator, two)
    operator.hangup(REVOKED)
    assert states(operator) == {"quarantined": 1, "remembered": 1}
    assert operator.proved(2).lease() == port


def test_a_connected_node_that_is_revoked_leaves_nothing_behind(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "", times=HOLD)
    node = operator.proved(1)
    node.lease(mode=pb.MODE_STREAMS)
    operator.hangup(REVOKED)
    operator.relay.pass_time(2)
    assert node.lost is not None
    assert states(operator) == {"quarantined": 1}


def test_it_reaches_leases_of_earlier_runs(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(REVOKED)
    access = Access(None, tmp_path / "policy.toml")

    class Reviewed(LeaseRegistry):
        def startService(self) -> None:
            self.review(access.judge)
            super().startService()

    disk = Disk()
    first = Run(disk, range(1, 4))
    one, two = (proved_by(seed) for seed in (1, 2))
    first.lease(one)
    first.lease(two)
    first.stop()
    second = Run(disk, range(1, 4), wall=1e9 + 10, registry_class=Reviewed)
    assert second.port_of(one) is None
    assert second.port_of(two) is not None
    second.pass_time(2)
    assert [row.owner for row in disk.rows.values() if row.state == "remembered"] == [two]


def proved_by(seed: int) -> Owner:
    key = Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))
    return Owner(Identity(True, key.public_key().public_bytes_raw()), "")


def test_what_the_policy_denies_everybody_it_denies_who_is_away(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    for seed in (1, 2):
        node = operator.proved(seed)
        node.lease()
        left(operator, node)
    claimer = operator.relay.node(3)
    claimer.say(Opcode.PROXY_REQUEST, pb.ProxyRequest())
    left(operator, claimer)
    operator.hangup(f'[default]\nadmit = false\n[keys."{TWO}"]\nadmit = true')
    assert states(operator) == {"quarantined": 2, "remembered": 1}


class WithTokens(Operator):
    def __init__(self, directory: Path, *lines: str) -> None:
        super().__init__(directory, "", times=HOLD)
        self.tokens = directory / "tokens"
        self.tokens.write_text("\n".join(lines))
        self.wall = 0.0
        self.relay.factory.access = Access(self.tokens, self.path, lambda: self.wall)
        self.relay.factory.watch_access()

    def tokens_are(self, *lines: str) -> None:
        self.tokens.write_text("\n".join(lines))
        self.relay.factory.access.reload()
        self.relay.factory.check_access()
        self.relay.pump()

    def lease(self, seed: int, token: object) -> RawNode:
        node = self.relay.node(seed, source=FAR)
        node.hello()
        challenge = node.take(Opcode.CHALLENGE)
        proof = node.proof(challenge)
        proof.token_id = token.id  # type: ignore[attr-defined]
        proof.token_signature = token.sign(node.signed(challenge))  # type: ignore[attr-defined]
        node.say(Opcode.PROOF, proof)
        node.take(Opcode.WELCOME)
        node.lease(mode=pb.MODE_STREAMS)
        return node


def test_a_token_that_is_taken_out_of_the_file_takes_its_leases_along(tmp_path: Path) -> None:
    alice, alices = make_token("alice", None, 0.0)
    bob, bobs = make_token("bob", None, 0.0)
    operator = WithTokens(tmp_path, alices, bobs)
    left(operator, operator.lease(1, alice))
    left(operator, operator.lease(2, bob))
    operator.tokens_are(bobs)
    assert states(operator) == {"quarantined": 1, "held": 1}


def test_a_token_that_is_replaced_under_its_name_keeps_its_leases(tmp_path: Path) -> None:
    alice, alices = make_token("alice", None, 0.0)
    _, newer = make_token("alice", None, 0.0)
    operator = WithTokens(tmp_path, alices)
    left(operator, operator.lease(1, alice))
    operator.tokens_are(newer)
    assert states(operator) == {"held": 1}


def test_a_token_that_has_ended_may_be_renewed_but_nobody_waits_for_its_node(
    tmp_path: Path,
) -> None:
    alice, alices = make_token("alice", "100s", 0.0)
    operator = WithTokens(tmp_path, alices)
    left(operator, operator.lease(1, alice))
    assert states(operator) == {"held": 1}
    operator.wall = 101.0
    operator.relay.pass_time(2)
    assert states(operator) == {"remembered": 1}
    assert operator.relay.run.sockets.bound == set()


def test_leases_of_keys_with_an_entry_count_for_no_source_from_then_on(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    node = operator.proved(1)
    node.lease()
    left(operator, node)
    table = operator.relay.run.registry._table
    assert table.leased_by.of_source(FAR, proved=True) == 1
    operator.hangup(f'[keys."{ONE}"]\nleases = 3')
    assert table.leased_by.of_source(FAR, proved=True) == 0
    operator.hangup("")
    assert table.leased_by.of_source(FAR, proved=True) == 1
    assert table.of_owner(Owner(Identity(True, node.sender.net_key), "")) is not None
