"""Answers that are counted together add up to what is counted one by one, and when they are counted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from service.observe import metrics, tally
from service.observe.adding import BOUNDS, VECTOR, Histogram, series
from service.observe.merge import Reader
from service.observe.recorders import RequestRecorder
from service.observe.store import Store
from service.observe.tally import Tallies
from service.statistics import Statistics

KEY = ("digits", "1")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def answered(folder: Path) -> int:
    return sum(int(each[0]) for each in Reader(folder).read()["torchere_requests"].values())


def running(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(act())


@pytest.mark.parametrize("count", [1, 2, VECTOR - 1, VECTOR, 300])
def test_many_values_fall_into_the_buckets_of_each(count: int) -> None:
    store, draw = Store(None), random.Random(count)
    one = series(store, metrics.LATENCY, *KEY, "http")
    all_ = series(store, metrics.LATENCY, *KEY, "grpc")
    edges = [0, 1, *BOUNDS[:3], BOUNDS[7] + 1, BOUNDS[-1], BOUNDS[-1] + 1]
    values = [draw.choice([draw.choice(edges), draw.randrange(10 ** draw.randint(3, 12))]) for _ in range(count)]
    for value in values:
        Histogram(one).add(value)
    Histogram(all_).add_all(values)
    size = metrics.LATENCY.size
    assert [one.get(index) for index in range(size)] == [all_.get(index) for index in range(size)]
    assert sum(all_.get(index) for index in range(1, size)) == count


def test_answers_of_a_turn_end_together_and_share_the_time_of_writing(tmp_path: Path) -> None:
    async def act() -> None:
        clock = Clock()
        tallies = Tallies(Store(tmp_path), clock)
        first, second = tallies.make(*KEY, "http", 2), tallies.make("other", "1", "grpc", 1)
        first.add(99.5)
        clock.now = 100.3
        first.add(99.75)
        second.add(100.0)
        tallies.turned()
        tallies.settle()
        found = Statistics(tmp_path).read()
        assert (found[(*KEY, 0)].success_count, found["other", "1", 0].success_count) == (2, 1)
        assert found[(*KEY, 0)].success_ns == pytest.approx(800e6 + 550e6, abs=10)
        merged = Reader(tmp_path).read()
        assert merged["torchere_rows"][(*KEY, "http")][0] == 4
        encode = merged["torchere_phase_seconds"][(*KEY, "encode")]
        assert encode[0] == pytest.approx(200e6, abs=10)
        assert encode[1:].sum() == 2

    running(act)


@pytest.mark.parametrize("count", [4, VECTOR, 200])
def test_many_answers_wait_for_a_word_and_are_exact(tmp_path: Path, count: int) -> None:
    async def act() -> None:
        clock = Clock()
        tallies = Tallies(Store(tmp_path), clock)
        kind = tallies.make(*KEY, "http", 1)
        for turn in range(4):
            for index in range(count // 4):
                kind.add(99 + turn + index / 1000)
            clock.now += 1
            tallies.turned()
        assert not answered(tmp_path)
        tallies.settle()
        tallies.settle()
        each = sum(2 - index / 1000 for index in range(count // 4))
        total = Statistics(tmp_path).read()[(*KEY, 0)]
        assert total.success_count == count
        assert total.success_ns == pytest.approx(4e9 * each, abs=count)

    running(act)


def test_answers_are_counted_without_a_word_after_the_lag(tmp_path: Path) -> None:
    async def act() -> None:
        tallies = Tallies(Store(tmp_path))
        tallies.lag_s = 0.0
        kind = tallies.make(*KEY, "http", 1)
        for count in (1, 2):
            kind.add(1.0)
            tallies.turned()
            for _ in range(20):
                await asyncio.sleep(0)
            assert answered(tmp_path) == count
        kind.add(1.0)  # and nobody says that the turn is over
        for _ in range(20):
            await asyncio.sleep(0)
        assert answered(tmp_path) == 3

    running(act)


def test_so_many_are_not_left_uncounted(tmp_path: Path) -> None:
    async def act() -> None:
        tallies = Tallies(Store(tmp_path))
        kind = tallies.make(*KEY, "http", 1)
        for _ in range(tally.MANY):
            kind.add(1.0)
        tallies.turned()
        assert answered(tmp_path) == tally.MANY

    running(act)


def test_statistics_have_all_that_was_answered_before_they_are_asked_for(tmp_path: Path) -> None:
    async def act() -> None:
        recorder = RequestRecorder(Store(tmp_path))
        kind = recorder.tally(*KEY, "http", 1)
        for _ in range(5):
            kind.add(1.0)
        recorder.turned()
        assert not answered(tmp_path)

        async def settle() -> None:
            recorder.settle()

        found = await Statistics(tmp_path, settle).ask()
        assert found[(*KEY, 0)].success_count == 5

    running(act)
