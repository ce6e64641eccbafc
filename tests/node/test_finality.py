"""The table of what an error means, row by row: final, for an impatient node too, and the waits."""

from __future__ import annotations

import pytest

from proxyservice.errors import (
    Distrust,
    FrameError,
    ProxyServiceError,
    RefusedError,
    StartError,
    StoreError,
    StreamError,
    UnreachableError,
    UntrustedError,
)
from proxyservice.node.finality import (
    LONGEST_WAIT_SECONDS,
    TREATMENTS,
    Kind,
    exit_status,
    hint_seconds,
    is_final,
    kind_of,
)
from proxyservice.wire import proxyservice_pb2 as pb


def refused(code: int) -> RefusedError:
    return RefusedError(code, "because")


def untrusted(distrust: Distrust) -> UntrustedError:
    return UntrustedError("because", distrust)


ROWS: list[tuple[ProxyServiceError, bool, bool, float, float]] = [
    # error, final, final for an impatient node, first and longest wait
    (UnreachableError("refused"), False, False, 1, 20),
    (FrameError("no frame"), False, False, 1, 20),
    (StreamError("no credit"), False, False, 1, 20),
    (StoreError("whatever is not in the table"), False, False, 1, 20),
    (refused(pb.REFUSAL_DRAINING), False, False, 1, 20),
    (refused(77), False, False, 1, 20),
    (untrusted(Distrust.DATES), False, False, 2, 300),
    (untrusted(Distrust.CHANNEL), False, False, 2, 300),
    (untrusted(Distrust.CERTIFICATE), False, True, 2, 300),
    (untrusted(Distrust.OURS), False, True, 2, 300),
    (untrusted(Distrust.PIN), False, True, 300, 300),
    (StartError("the disk is full"), False, True, 2, 300),
    (refused(pb.REFUSAL_DENIED), False, True, 60, 3600),
    (refused(pb.REFUSAL_QUOTA), False, True, 60, 3600),
    (refused(pb.REFUSAL_EXHAUSTED), False, True, 2, 300),
    (refused(pb.REFUSAL_ADDRESS_UNAVAILABLE), False, True, 2, 300),
    (refused(pb.REFUSAL_MALFORMED), True, True, 60, 3600),
    (refused(pb.REFUSAL_UNSUPPORTED), True, True, 60, 3600),
    (refused(pb.REFUSAL_UNAUTHENTICATED), True, True, 60, 3600),
    (refused(pb.REFUSAL_SUPERSEDED), True, True, 60, 3600),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{kind_of(row[0]).name} {row[0]}")
def test_the_table(row: tuple[ProxyServiceError, bool, bool, float, float]) -> None:
    error, final, final_for_the_impatient, first_seconds, longest_seconds = row
    assert is_final(error) is final
    assert is_final(error, impatient=True) is final_for_the_impatient
    waits = TREATMENTS[kind_of(error)].waits
    assert (waits.first_seconds, waits.longest_seconds) == (first_seconds, longest_seconds)


def test_no_kind_and_no_code_is_forgotten() -> None:
    assert {kind_of(row[0]) for row in ROWS} == set(Kind) == TREATMENTS.keys()
    said = {row[0].code for row in ROWS if isinstance(row[0], RefusedError)}
    assert set(pb.RefusalCode.values()) - {0} <= said


def test_the_exit_status_tells_a_takeover_from_the_rest() -> None:
    for error, *_ in ROWS:
        taken_over = kind_of(error) is Kind.SUPERSEDED
        assert exit_status(error) == (3 if taken_over else 1)


@pytest.mark.parametrize(
    ("said", "believed"), [(0.0, 0.0), (7.0, 7.0), (2.0**62 / 1000, LONGEST_WAIT_SECONDS)]
)
def test_a_hint_is_believed_within_reason(said: float, believed: float) -> None:
    assert hint_seconds(RefusedError(pb.REFUSAL_EXHAUSTED, "full", said)) == believed
    assert hint_seconds(UnreachableError("no hint")) == 0.0
