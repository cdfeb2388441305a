from __future__ import annotations

import pytest

from compiler.choose import choose, score


def test_throughput_weighs_every_bucket_by_its_rows() -> None:
    assert score({1: 1.0, 3: 1.0}, "throughput") == 2000.0


def test_latency_looks_at_the_smallest_batch_alone() -> None:
    assert score({1: 2.0, 64: 9.0}, "latency") == 500.0


@pytest.mark.parametrize(("milliseconds", "winner"), [(0.96, "eager"), (0.95, "torchscript")])
def test_a_more_complex_backend_must_win_by_five_percent(milliseconds: float, winner: str) -> None:
    chosen, losers = choose({"eager": {1: 1.0}, "torchscript": {1: milliseconds}}, "latency")
    assert chosen == winner
    assert list(losers) == [{"eager": "torchscript", "torchscript": "eager"}[winner]]


def test_the_objective_decides_between_good_at_one_and_good_at_many() -> None:
    times = {"eager": {1: 1.0, 32: 30.0}, "inductor": {1: 2.0, 32: 10.0}}
    assert choose(times, "latency")[0] == "eager"
    assert choose(times, "throughput") == ("inductor", {"eager": "2.58 times slower than inductor"})


def test_the_loser_that_was_a_little_faster_is_told_why() -> None:
    _, losers = choose({"eager": {1: 1.0}, "inductor": {1: 0.98}}, "latency")
    assert losers["inductor"].startswith("1.02 times as fast as eager, but")


def test_a_candidate_alone_wins() -> None:
    assert choose({"inductor": {1: 5.0}}, "throughput") == ("inductor", {})
