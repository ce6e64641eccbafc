"""A server that falls silent at the worst moment is found after three intervals all the same."""

from __future__ import annotations

from tests.node.test_node import Scene


def test_silence_that_begins_just_after_an_answer_is_found_in_three_intervals() -> None:
    scene = Scene().start()
    pair = scene.servers[0].last.pair
    scene.run(29.9)
    pair.black_hole = True
    scene.run(1.1)  # a keepalive is under way
    pair.black_hole = False
    scene.run(0.1)  # now it is answered
    pair.black_hole = True
    heard_at = scene.clock.seconds()
    while len(scene.servers[0].attempts) == 1:
        scene.run(0.05)
        assert scene.clock.seconds() - heard_at < 46, "not found in time"
    assert scene.clock.seconds() - heard_at > 44
