"""Quotas: which leases go for another one, which never do, and what a refusal says."""

from __future__ import annotations

import pytest

from proxyservice.errors import RefusedError
from proxyservice.leases.lease import Identity, LeaseQuota, LeaseTimes, Owner
from proxyservice.leases.table import LeaseTable
from proxyservice.wire import proxyservice_pb2 as pb

TIMES = LeaseTimes(ttl=100.0, proved_ttl=1000.0, quarantine=10.0)
HOME, AWAY = "203.0.113.9", "198.51.100.1"
USUAL = LeaseQuota()


def proved(number: int, origin: str = "") -> Owner:
    return Owner(Identity(True, number.to_bytes(32, "big")), origin)


def claimed(key: str, connection: str) -> Owner:
    return Owner(Identity(False, key.encode(), connection.encode()), "")


@pytest.fixture
def table() -> LeaseTable:
    return LeaseTable(range(1, 1001), TIMES, 1)


def remembered(table: LeaseTable, owner: Owner, now: float = 0.0, source: str = HOME) -> int:
    grant = table.acquire(owner, now, source, limits=USUAL)
    table.holding_ended(owner, grant.generation, now)
    return grant.lease.port


def refusal(
    table: LeaseTable, owner: Owner, now: float, limits: LeaseQuota = USUAL
) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        table.acquire(owner, now, HOME, limits=limits)
    return caught.value


def test_a_team_behind_one_address_has_room_for_64_proved_keys(table: LeaseTable) -> None:
    for number in range(64):
        table.acquire(proved(number), 0.0, HOME, limits=USUAL)
    full = refusal(table, proved(64), 0.0)
    assert full.code == pb.REFUSAL_QUOTA
    assert "this source address has 64 leases of keys that are proved" in full.reason
    assert "--limit leases-per-source=N, a token, or an entry in --policy" in full.reason
    assert full.retry_after_seconds == 60.0


def test_claimed_identities_of_a_source_count_apart(table: LeaseTable) -> None:
    for number in range(8):
        table.acquire(claimed(f"key {number}", "a"), 0.0, HOME, limits=USUAL)
    full = refusal(table, claimed("key 8", "a"), 0.0)
    assert "8 leases of claimed keys" in full.reason
    assert "--limit claimed-leases-per-source=N" in full.reason
    assert table.acquire(proved(1), 0.0, HOME, limits=USUAL).fresh


def test_a_key_has_a_quota_of_its_own(table: LeaseTable) -> None:
    for number in range(8):
        table.acquire(proved(1, str(number)), 0.0, HOME, limits=USUAL)
    full = refusal(table, proved(1, "9"), 0.0)
    assert "this key has 8 leases already" in full.reason
    assert "--limit leases-per-key=N" in full.reason
    assert table.acquire(proved(2), 0.0, HOME, limits=USUAL).fresh


def test_what_is_promised_goes_for_nobody_not_for_its_own_key_either(table: LeaseTable) -> None:
    for number in range(8):
        remembered(table, proved(1, str(number)), float(number))
    full = refusal(table, proved(1, "9"), 50.0)
    assert "the oldest that is not in use is promised for 50s more" in full.reason
    assert full.retry_after_seconds == 50.0
    grant = table.acquire(proved(1, "9"), 100.0, HOME, limits=USUAL)
    assert [lease.owner.origin for lease in grant.released] == ["0"]


def test_beyond_its_promise_the_one_least_recently_heard_of_its_own_source_goes(
    table: LeaseTable,
) -> None:
    elsewhere = remembered(table, proved(1000), 0.0, AWAY)
    for number in range(64):
        remembered(table, proved(number), 1.0 + number)
    assert refusal(table, proved(64), 100.0).code == pb.REFUSAL_QUOTA
    grant = table.acquire(proved(64), 103.0, HOME, limits=USUAL)
    assert [lease.owner for lease in grant.released] == [proved(0)]
    assert table.acquire(proved(1000), 900.0, HOME).lease.port == elsewhere


def test_who_comes_back_from_another_source_is_never_refused_for_that(table: LeaseTable) -> None:
    port = remembered(table, proved(1), 0.0, AWAY)
    for number in range(2, 66):
        table.acquire(proved(number), 0.0, HOME, limits=USUAL)
    lease = table.acquire(proved(1), 0.0, HOME, limits=USUAL).lease
    assert (lease.port, lease.charged_to) == (port, AWAY)


def test_a_claimed_lease_within_its_promise_goes_for_no_neighbour(table: LeaseTable) -> None:
    port = remembered(table, claimed("its key", "a"))
    for number in range(50):
        try:
            remembered(table, claimed(f"key {number}", "a"))
        except RefusedError as error:
            assert error.code == pb.REFUSAL_QUOTA
    assert table.acquire(claimed("its key", "a"), 99.0, HOME, limits=USUAL).lease.port == port


def test_a_node_that_calls_itself_otherwise_at_each_start_takes_the_place_of_itself(
    table: LeaseTable,
) -> None:
    """Deployed ones may have another connection_id each time; the net key stays."""
    port = remembered(table, claimed("a neighbour", "x"))
    for start in range(50):
        remembered(table, claimed("its key", str(start)), float(start))
    assert len(table) == 8
    assert table.acquire(claimed("a neighbour", "x"), 50.0, HOME, limits=USUAL).lease.port == port


def test_a_lease_that_is_in_use_is_never_in_the_way(table: LeaseTable) -> None:
    for start in range(8):
        table.acquire(claimed("its key", str(start)), 0.0, HOME, limits=USUAL)
    assert refusal(table, claimed("its key", "8"), 1e6).code == pb.REFUSAL_QUOTA


def test_the_refusal_of_a_token_names_its_entry(table: LeaseTable) -> None:
    limits = LeaseQuota(99, 1, 1, source_lifted_by="`leases` of tokens.alice in --policy")
    table.acquire(proved(1), 0.0, HOME, limits=limits, charged_to="token alice")
    with pytest.raises(RefusedError) as caught:
        table.acquire(proved(2), 0.0, HOME, limits=limits, charged_to="token alice")
    assert "token alice has 1 leases already" in caught.value.reason
    assert "`leases` of tokens.alice in --policy" in caught.value.reason


def test_a_full_range_says_when_to_come_again_and_what_has_more() -> None:
    small = LeaseTable(range(1, 3), TIMES, 1)
    for number in range(2):
        remembered(small, proved(number))
    full = refusal(small, proved(2), 40.0)
    assert full.code == pb.REFUSAL_EXHAUSTED
    assert full.retry_after_seconds == 60.0
    assert "one may be free in 1m" in full.reason
    assert "--ports" in full.reason
    assert small.acquire(proved(2), 100.0, HOME, limits=USUAL).fresh
