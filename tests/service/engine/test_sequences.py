"""Sequences run their requests in order, begin when there is room, and end when they are ended or forgotten."""

from __future__ import annotations

import pytest
from hypothesis import settings

from service.engine.batcher import WaitUntil
from service.engine.turns import Expire, Refuse, Run, Turn
from service.errors import InvalidInput, QueueFull, Unavailable, UnknownSequence
from service.tensors import SequencePoint
from tests.service.engine.test_sequences_machine import Machine
from tests.service.engine.turns import Bench

START, END, BOTH = (True, False), (False, True), (True, True)


def test_a_batch_has_one_request_of_each_sequence_the_oldest_first() -> None:
    bench = Bench()
    for identity in (7, 5, 6):
        bench.add(identity, START)
        bench.now += 1
    bench.add(7)
    assert bench.run() == (7, 5, 6)
    assert bench.run() == (7,)


def test_no_two_requests_of_a_sequence_run_at_once() -> None:
    bench = Bench(instances=2)
    bench.add(1, START)
    bench.add(1)
    first = bench.poll(0)
    assert isinstance(first, Run)
    assert bench.poll(1) is None
    bench.sequences.finished(first.turns[0], bench.now, has_run=True)
    assert bench.run(1) == (1,)


def test_an_unknown_sequence_is_told_how_to_begin() -> None:
    with pytest.raises(UnknownSequence, match="sequence 5 of model 'm' is not known: start it with sequence_start"):
        Bench().add(5)


def test_an_ended_sequence_takes_no_more_until_it_begins_anew() -> None:
    bench = Bench()
    bench.add(5, START)
    bench.add(5, END)
    with pytest.raises(InvalidInput, match="sequence 5 of model 'm' has had its last request: start another"):
        bench.add(5)
    bench.add(5, START)
    assert [bench.run(), bench.run(), bench.run()] == [(5,)] * 3
    bench.add(5)


def test_sequences_beyond_the_most_wait_until_another_ends() -> None:
    bench = Bench(max_sequences=1)
    bench.add("a", START)
    bench.add("b", START)
    bench.add("b")
    assert bench.run() == ("a",)
    assert isinstance(bench.poll(), WaitUntil)
    bench.add("a", END)
    assert bench.run() == ("a",)
    assert [bench.run(), bench.run()] == [("b",), ("b",)]


def test_what_waits_is_bounded_and_expires_also_in_the_backlog() -> None:
    bench = Bench(max_sequences=1, max_queue_size=2)
    bench.add(1, START)
    bench.run()
    late = bench.add(2, START, deadline=3.0)
    bench.add(2)
    with pytest.raises(QueueFull, match="max_queue_size 2"):
        bench.add(1)
    assert bench.poll() == WaitUntil(3.0)
    bench.now = 3.0
    assert bench.poll() == Expire((late,))
    refused = bench.poll()
    assert isinstance(refused, Refuse)
    assert "sequence 2 did not begin" in str(refused.turns[0][1])
    with pytest.raises(UnknownSequence):
        bench.add(2)


def test_an_idle_sequence_is_forgotten_and_told_so() -> None:
    bench = Bench(max_sequences=1, idle_timeout_s=60.0)
    bench.add(1, START)
    bench.run()
    bench.add(2, START)
    assert bench.poll() == WaitUntil(60.0)
    bench.now = 60.0
    assert bench.run() == (2,)
    with pytest.raises(
        UnknownSequence, match=r"was forgotten after 60 s without a request \(idle_timeout_s\): start it"
    ):
        bench.add(1)


def test_a_sequence_is_not_idle_while_it_runs_or_waits() -> None:
    bench = Bench(idle_timeout_s=60.0)
    bench.add(1, START)
    running = bench.poll()
    bench.now = 1000.0
    bench.add(1)
    bench.sequences.finished(running.turns[0], bench.now, has_run=True)
    bench.now = 2000.0
    assert bench.run() == (1,)


def test_a_request_that_failed_changes_nothing_but_where_it_was_to_start() -> None:
    bench = Bench()
    bench.add(1, START)
    bench.run()
    bench.add(1)
    bench.run(has_run=False)
    bench.add(1, END)
    bench.run(has_run=False)
    bench.add(1)
    bench.run()
    bench.add(1, START)
    bench.add(1)
    bench.add(1, START)
    assert bench.run(has_run=False) == (1,)
    refused = bench.poll()
    assert [str(error) for _, error in refused.turns] == [
        "sequence 1 did not begin, as its first request was not run: send that again, with sequence_start"
    ]
    assert bench.run() == (1,)


def test_a_cancelled_start_in_the_middle_ends_the_sequence_there() -> None:
    bench = Bench()
    bench.add(1, START)
    running = bench.poll()
    bench.add(1)
    again = bench.add(1, START)
    bench.add(1)
    bench.sequences.cancel(again, bench.now)
    refused = bench.poll()
    assert len(refused.turns) == 1
    with pytest.raises(InvalidInput, match="did not begin"):
        bench.add(1)
    bench.sequences.finished(running.turns[0], bench.now, has_run=True)
    assert bench.run() == (1,)
    with pytest.raises(UnknownSequence):
        bench.add(1)


def test_direct_keeps_a_sequence_at_its_row_of_its_instance() -> None:
    bench = Bench(strategy="direct", instances=2, rows=2, buckets=(1, 2), max_sequences=100)
    for identity in (1, 2, 3, 4, 5):
        bench.add(identity, START)
    runs = [bench.poll(instance) for instance in (0, 1)]
    assert [[each.point.id for each in run.turns] for run in runs] == [[1, 3], [2, 4]]
    assert [(run.rows, run.slots, run.bucket) for run in runs] == [((0, 1), (0, 1), 2), ((0, 1), (2, 3), 2)]
    for run in runs:
        for each in run.turns:
            bench.sequences.finished(each, 0.0, has_run=True)
    bench.add(4, END)
    run = bench.poll(1)
    assert (run.rows, run.slots, run.bucket) == ((1,), (3,), 2)
    assert bench.poll(0) == WaitUntil(60.0)
    bench.sequences.finished(run.turns[0], 0.0, has_run=True)
    assert bench.poll(1).slots == (3,)


def test_other_shapes_do_not_share_a_batch() -> None:
    bench = Bench()
    for identity, shape in ((1, "a"), (2, "b"), (3, "a")):
        bench.sequences.add(Turn(SequencePoint(identity, True), shape, 0.0), 0.0)
    assert [bench.run(), bench.run()] == [(1, 3), (2,)]


def test_a_delay_waits_for_company_until_every_living_sequence_is_there() -> None:
    bench = Bench(max_queue_delay_s=1.0, rows=2, buckets=(1, 2))
    bench.add(1, START)
    assert bench.run() == (1,)
    bench.add(2, START)
    assert bench.poll() == WaitUntil(1.0)
    bench.add(1)
    assert bench.run() == (2, 1)


def test_when_it_stops_the_backlog_is_refused_and_the_rest_runs() -> None:
    bench = Bench(max_sequences=1)
    bench.add(1, START)
    bench.add(2, START)
    bench.sequences.stop()
    refused = bench.poll()
    assert [(each.point.id, type(error)) for each, error in refused.turns] == [(2, Unavailable)]
    assert bench.run() == (1,)
    assert bench.sequences.waiting == 0


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
