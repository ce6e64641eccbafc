from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxyservice.streams.fairness import FairQueue

QUANTUM = 64 * 1024


def serve(queue: FairQueue[str], sizes: dict[str, int], turns: int) -> dict[str, int]:
    """Everybody always has data; each turn sends one quantum of that source's size."""
    sent = dict.fromkeys(sizes, 0)
    for source in sizes:
        queue.wait(source)
    for _ in range(turns):
        source = queue.next()
        assert source is not None
        queue.charge(source, sizes[source])
        sent[source] += sizes[source]
        queue.wait(source)
    return sent


def test_bytes_are_shared_whatever_the_size_of_a_turn() -> None:
    sent = serve(FairQueue(), {"big": 1 << 20, "small": 1 << 10}, 100_000)
    assert abs(sent["big"] - sent["small"]) <= 1 << 20


def test_thirty_two_bulk_sources_share_with_a_jain_index_of_95_percent() -> None:
    sent = list(serve(FairQueue(), {str(i): QUANTUM - 999 * i for i in range(32)}, 3_200).values())
    jain = sum(sent) ** 2 / (len(sent) * sum(n * n for n in sent))
    assert jain >= 0.95


def test_a_small_source_waits_for_one_quantum_of_each_competitor() -> None:
    queue: FairQueue[str] = FairQueue()
    bulk = {str(i): QUANTUM for i in range(32)}
    serve(queue, bulk, 1_000)
    queue.wait("small")
    waited = 0
    while (source := queue.next()) != "small":
        assert source is not None
        queue.charge(source, QUANTUM)
        queue.wait(source)
        waited += 1
    assert waited <= 32


def test_a_rest_is_no_credit() -> None:
    queue: FairQueue[str] = FairQueue()
    serve(queue, {"busy": QUANTUM}, 1_000)
    sent = serve(queue, {"busy": QUANTUM, "rested": QUANTUM}, 100)
    assert abs(sent["busy"] - sent["rested"]) <= 2 * QUANTUM


def test_sending_alone_is_no_debt() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(1_000):
        queue.charge("alone", QUANTUM)
    sent = serve(queue, {"alone": QUANTUM, "new": QUANTUM}, 100)
    assert abs(sent["alone"] - sent["new"]) <= 2 * QUANTUM


def test_a_tiny_frame_costs_256_bytes() -> None:
    sent = serve(FairQueue(), {"tiny": 1, "fair": 256}, 1_000)
    assert sent["tiny"] * 256 <= sent["fair"] + 256


@given(
    st.lists(st.tuples(st.sampled_from(["wait", "forget", "next", "charge"]), st.integers(0, 9)))
)
@settings(max_examples=200)
def test_everybody_who_waits_gets_a_turn_and_the_forgotten_leave_nothing(
    steps: list[tuple[str, int]],
) -> None:
    queue: FairQueue[int] = FairQueue()
    waiting: set[int] = set()
    for step, source in steps:
        if step == "wait":
            queue.wait(source)
            waiting.add(source)
        elif step == "forget":
            queue.forget(source)
            waiting.discard(source)
        elif step == "charge":
            queue.charge(source, source * 1000)
        else:
            taken = queue.next()
            assert (taken is None) == (not waiting)
            waiting.discard(-1 if taken is None else taken)
        assert len(queue) == len(waiting)
    for source in range(10):
        queue.forget(source)
    assert not queue
    assert not queue._virtual


def test_many_comings_and_goings_leave_a_small_heap() -> None:
    queue: FairQueue[int] = FairQueue()
    for source in range(10_000):
        queue.wait(source)
        queue.forget(source)
    assert len(queue._heap) <= 64
