"""Batches that are counted together add up to what is counted one by one, and when they are counted."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.observe.batch_recorder import PAUSE_S, QUIET, BatchRecorder, Later, Visited
from service.observe.merge import Merged, Reader
from service.observe.store import Store
from service.statistics import Statistics

KEY = ("digits", "1")
PHASES = (1, 2, 30, 4)


class NeverLater(Later):
    """Remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[Visited] = []

    def visit(self, who: Visited) -> None:
        self.asked.append(who)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("service.observe.batch_recorder.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def later() -> NeverLater:
    return NeverLater()


@pytest.fixture
def recorder(tmp_path: Path, clock: Clock, later: NeverLater) -> Iterator[BatchRecorder]:
    """One that has just counted."""
    store = Store(tmp_path)
    recorder = BatchRecorder(store, *KEY, later)
    recorder.count()
    yield recorder
    store.close()


def words(folder: Path) -> dict[Any, list[int]]:
    merged: Merged = Reader(folder).read()
    return {(name, *labels): each.tolist() for name, found in merged.items() for labels, each in found.items()}


def batches(folder: Path) -> int:
    found = Statistics(folder).read().get((*KEY, 0))
    return found.execution_count if found is not None else 0


def gauge(folder: Path, name: str) -> int:
    return words(folder)[(f"torchere_{name}", *KEY)][0]


def run(recorder: BatchRecorder, requests: int = 1) -> None:
    recorder.dispatched("idle", requests)
    recorder.batch([1000] * requests, PHASES, requests, requests)
    recorder.settled(requests)


@pytest.mark.parametrize("count", [1, 3, 9, 70])
def test_batches_that_were_put_down_count_as_one_by_one(tmp_path: Path, clock: Clock, count: int) -> None:
    folders = [tmp_path / "one", tmp_path / "many"]
    for folder in folders:
        folder.mkdir()
    later, draw = NeverLater(), random.Random(count)
    each = BatchRecorder(Store(folders[0]), *KEY)
    together = BatchRecorder(Store(folders[1]), *KEY, later)
    together.count()
    for _ in range(count):
        rows = draw.randint(1, 32)
        queue_ns = [draw.randrange(3_000_000) for _ in range(rows)]
        phases_ns = (draw.randrange(9000), draw.randrange(500), draw.randrange(10**6), draw.randrange(3000))
        reason = draw.choice(["idle", "full"])
        for recorder in (each, together):
            recorder.dispatched(reason, rows)
            recorder.batch(queue_ns, phases_ns, rows, 32, parts=rows % 3)
            recorder.settled(rows)
    assert not batches(folders[1])
    assert later.asked == [together]
    together.count()
    assert words(folders[0]) == words(folders[1])


def test_who_ends_a_batch_counts_those_of_a_pause(tmp_path: Path, recorder: BatchRecorder, clock: Clock) -> None:
    run(recorder)
    assert not batches(tmp_path)
    clock.now += PAUSE_S * 1.01
    run(recorder)
    assert batches(tmp_path) == 2


def test_what_nobody_follows_is_counted_by_a_visit(tmp_path: Path, recorder: BatchRecorder, clock: Clock) -> None:
    run(recorder)
    assert recorder.visit()
    assert not batches(tmp_path), "a batch that ends may count it yet"
    clock.now += PAUSE_S * 1.01
    assert recorder.visit()
    assert batches(tmp_path) == 1


def test_nobody_visits_what_is_quiet(recorder: BatchRecorder, clock: Clock, later: NeverLater) -> None:
    run(recorder)
    clock.now += 1
    answers = [recorder.visit() for _ in range(QUIET + 1)]
    assert answers == [True] * QUIET + [False]
    assert later.asked == [recorder]
    run(recorder)
    assert later.asked == [recorder] * 2


def test_what_runs_and_waits_is_told_however_long_a_batch_takes(
    tmp_path: Path, recorder: BatchRecorder, clock: Clock, later: NeverLater
) -> None:
    waiting = [0]
    recorder.follow(lambda: waiting[0])
    recorder.dispatched("idle", 4)
    for waiting[0] in (3, 5):
        clock.now += 1
        assert recorder.visit()
        assert (gauge(tmp_path, "requests_running"), gauge(tmp_path, "queue_depth")) == (4, waiting[0])
    assert all(recorder.visit() for _ in range(2 * QUIET))
    recorder.settled(4)
    assert (gauge(tmp_path, "requests_running"), gauge(tmp_path, "queue_depth")) == (0, 5)


def test_a_queue_of_which_nothing_runs_is_visited_while_something_waits(
    tmp_path: Path, recorder: BatchRecorder, later: NeverLater
) -> None:
    waiting = [2]
    recorder.follow(lambda: waiting[0])
    recorder.queued()
    recorder.queued()
    assert later.asked == [recorder]
    assert all(recorder.visit() for _ in range(2 * QUIET))
    assert gauge(tmp_path, "queue_depth") == 2
    waiting[0] = 0
    assert not recorder.visit()
    assert gauge(tmp_path, "queue_depth") == 0


def test_batches_of_an_ensemble_need_nobody_to_end_them(
    tmp_path: Path, recorder: BatchRecorder, clock: Clock, later: NeverLater
) -> None:
    recorder.batch([1000], PHASES, 1, 1)
    assert later.asked == [recorder]
    clock.now += 1
    recorder.visit()
    assert batches(tmp_path) == 1


class Guest:
    """Says yes so often."""

    def __init__(self, visits: int) -> None:
        self.visits = visits
        self.counted = 0
        self.is_left = threading.Event()

    def visit(self) -> bool:
        self.visits -= 1
        if not self.visits:
            self.is_left.set()
        return self.visits > 0

    def count(self) -> None:
        self.counted += 1


def test_a_thread_visits_who_asks_until_it_is_told_no_more() -> None:
    slept: list[float] = []
    later = Later(slept.append)
    first = Guest(3)
    later.visit(first)
    assert first.is_left.wait(10)
    second = Guest(1)
    later.visit(second)
    assert second.is_left.wait(10)
    assert first.visits == second.visits == 0
    assert slept[:4] == [PAUSE_S] * 4


def test_at_the_end_everything_is_counted(tmp_path: Path, clock: Clock) -> None:
    is_asleep, go_on = threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        is_asleep.set()
        go_on.wait(10)

    later = Later(sleep)
    recorder = BatchRecorder(Store(tmp_path), *KEY, later)
    recorder.count()
    run(recorder)
    assert is_asleep.wait(10)
    assert not batches(tmp_path)
    later.finish()
    assert batches(tmp_path) == 1
    go_on.set()


def test_threads_lose_nothing_between_them(tmp_path: Path) -> None:
    recorder = BatchRecorder(Store(tmp_path), *KEY, Later(lambda _: None))

    def work() -> None:
        for _ in range(2000):
            run(recorder, 3)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.count()
    found = Statistics(tmp_path).read()[(*KEY, 0)]
    assert (found.execution_count, found.inference_count, found.queue_count) == (6000, 18000, 18000)
    assert gauge(tmp_path, "requests_running") == 0
