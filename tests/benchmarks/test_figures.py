"""The benchmark's own arithmetic and its hand-written frames."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.goals import Goal
from benchmarks.measure import Row
from benchmarks.processes import BenchmarkError
from benchmarks.registrar import HEADER, KEEPALIVE, NETWORK_ID, PROXY_REQUEST, Node, _opcode
from benchmarks.results import BEST_TUNNEL, OURS, Results, Spread
from proxyservice.wire import proxyservice_pb2 as pb2

RATE = Row("rate", "rate", "1/s")
DELAY = Row("delay", "delay", "us", higher_is_better=False)


def filled(row: Row, **samples: list[float | None]) -> Results:
    results = Results()
    for peer, values in samples.items():
        for value in values:
            results.add(row, peer, value)
    return results


def test_a_ratio_pairs_the_samples_of_one_round() -> None:
    results = filled(RATE, proxyservice=[10, 20, 90], socat=[5, 20, 30])
    assert results.ratio("rate", "socat") == Spread(1.0, 2.0, 3.0)


def test_a_failed_round_is_left_out_on_both_sides() -> None:
    results = filled(RATE, proxyservice=[10, None, 90], socat=[None, 20, 30])
    assert results.ratio("rate", "socat") == Spread(3.0, 3.0, 3.0)


def test_the_best_tunnel_follows_what_is_better() -> None:
    assert filled(RATE, rathole=[3], bore=[5]).reference("rate", BEST_TUNNEL) == "bore"
    assert filled(DELAY, rathole=[3], bore=[5]).reference("delay", BEST_TUNNEL) == "rathole"
    assert filled(RATE, socat=[9]).reference("rate", BEST_TUNNEL) is None


@pytest.mark.parametrize(("mine", "reached"), [(12.9, False), (13.0, True)])
def test_a_goal_counts_by_the_median(mine: float, reached: bool) -> None:
    results = filled(RATE, proxyservice=[1.0, mine, 99.0], bore=[10.0, 10.0, 10.0])
    assert Goal("rate", BEST_TUNNEL, 1.3, at_least=True).reached(results) is reached


def test_a_goal_is_asked_of_every_installation() -> None:
    results = filled(RATE, proxyservice=[9.0], PyPy=[13.0], bore=[10.0])
    results.peers = {"proxyservice": {}, "PyPy": {"installed": "yes"}, "bore": {}}
    goal = Goal("rate", BEST_TUNNEL, 1.3, at_least=True)
    assert results.installations == ["PyPy"]
    assert goal.reached(results) is False
    assert goal.reached(results, "PyPy") is True
    assert goal.measured(results, "PyPy") == Spread(1.3, 1.3, 1.3)


def test_an_absolute_goal_needs_no_other() -> None:
    results = filled(DELAY, proxyservice=[4.0])
    assert Goal("delay", "", 4.0, at_least=False).reached(results) is True
    assert Goal("delay", "", 3.9, at_least=False).reached(results) is False
    assert Goal("rate", "", 1.0, at_least=True).reached(results) is None


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="the benchmarks assign processors; PyPy cannot"
)
def test_results_survive_their_file(tmp_path: Path) -> None:
    results = filled(RATE, proxyservice=[1.0, None], bore=[2.0, 3.0])
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results
    assert OURS in results.samples["rate"]


def test_a_file_that_holds_no_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(BenchmarkError, match="holds no results"):
        Results.load(tmp_path / "results.json")


@pytest.mark.parametrize(("name", "opcode"), [("request", PROXY_REQUEST), ("keepalive", KEEPALIVE)])
def test_frames_of_the_registrar_are_what_the_contract_says(name: str, opcode: int) -> None:
    frame = getattr(Node(7), name)
    network_id, flag, _, length = HEADER.unpack_from(frame)
    body = frame[HEADER.size :]
    assert (network_id, flag, length) == (NETWORK_ID, 0, len(body))
    message = pb2.Message.FromString(body)
    assert (message.opcode, message.netID) == (opcode, NETWORK_ID)
    assert len(message.sender.net_key) == len(message.sender.connection_id) == 32
    assert message.sender.address.startswith("tcp://")


def test_nodes_of_the_registrar_are_distinct() -> None:
    senders = {
        pb2.Message.FromString(Node(n).request[HEADER.size :]).sender.net_key for n in range(99)
    }
    assert len(senders) == 99


def test_the_registrar_finds_the_opcode_of_an_answer() -> None:
    sender = pb2.ID(net_key=b"PORTER_TCP_NETKEY", address="tcp://127.0.0.1:6008")
    answer = pb2.Message(
        message=b"x" * 300, sender=sender, message_nonce=2**40, opcode=9, netID=NETWORK_ID
    )
    assert _opcode(memoryview(answer.SerializeToString())) == 9
