"""The batcher where it knows what batches take, where some sizes are preferred, where a request has a deadline."""

import pytest

from service.engine.batcher import Batcher, Run, WaitUntil
from service.engine.queues import Waiting
from service.errors import QueueFull
from tests.service.engine.test_batcher import batcher, put

STEEP = {1: 0.010, 2: 0.012, 4: 0.016, 8: 0.024}
FLAT = {1: 0.010, 2: 0.0101, 4: 0.0102, 8: 0.0104}


def measured(times: dict[int, float], **changes: object) -> Batcher:
    target = batcher(**changes)
    target.measured(times)
    return target


def sizes(target: Batcher, now: float = 0.0) -> list[tuple[int, int]]:
    """(rows, bucket) of each batch until nothing waits."""
    found = []
    while isinstance(run := target.poll(now), Run):
        found.append((sum(request.rows for request in run.requests), run.bucket))
        target.finished(run, None)
    return found


@pytest.mark.parametrize(("times", "expected"), [(FLAT, [(5, 8)]), (STEEP, [(5, 8)]), ({}, [(5, 8)])])
def test_five_rows_are_padded_where_a_call_costs(times: dict[int, float], expected: list[tuple[int, int]]) -> None:
    target = measured(times)
    for _ in range(5):
        put(target)
    assert sizes(target) == expected


def test_five_rows_are_two_batches_where_padding_costs_more() -> None:
    target = measured({1: 0.001, 2: 0.01, 4: 0.02, 8: 0.05})
    for _ in range(5):
        put(target)
    assert sizes(target) == [(1, 1)] * 5, "one by one is the fastest of all here"
    target = measured({1: 0.010, 2: 0.012, 4: 0.016, 8: 0.030})
    for _ in range(5):
        put(target)
    assert sizes(target) == [(4, 4), (1, 1)]


def test_a_preferred_size_ends_the_delay_and_the_largest_that_is_there_runs() -> None:
    patient = batcher(max_queue_delay_s=1.0, preferred=(2, 4))
    put(patient)
    assert patient.poll(0.0) == WaitUntil(1.0)
    for _ in range(4):
        put(patient)
    run = patient.poll(0.5)
    assert isinstance(run, Run)
    assert (len(run.requests), run.reason) == (4, "preferred")
    assert patient.poll(0.5) == WaitUntil(1.0)
    last = patient.poll(1.0)
    assert isinstance(last, Run)
    assert (len(last.requests), last.reason) == (1, "delay")


def test_where_times_are_known_a_preferred_size_leaves_nothing_behind() -> None:
    patient = measured(FLAT, max_queue_delay_s=1.0, preferred=(2, 4))
    for _ in range(5):
        put(patient)
    assert sizes(patient) == [(5, 8)]


def test_another_shape_that_is_full_does_not_wait_for_one_that_is_not() -> None:
    patient = batcher(max_queue_delay_s=1.0)
    put(patient, 1, shape=(5,))
    full = put(patient, 8, at=0.1)
    assert patient.poll(0.1) == Run((full,), bucket=8)
    assert patient.poll(0.1) == WaitUntil(1.0)


def test_no_request_waits_for_company_until_it_is_too_late_for_itself() -> None:
    patient = measured(STEEP, max_queue_delay_s=1.0)
    only = put(patient, deadline=0.1)
    assert patient.poll(0.0) == WaitUntil(0.1 - 2 * STEEP[1])
    assert patient.poll(0.08) == Run((only,), bucket=1)


def test_what_would_miss_its_deadline_is_refused_at_once_and_told_when_to_come_back() -> None:
    busy = measured(STEEP)
    put(busy, 8)
    running = busy.poll(0.0)
    assert isinstance(running, Run)
    put(busy, 8, at=0.004, deadline=0.059)
    sentence = "8 rows go before it, its answer is expected in 59 ms, its time ends in 56 ms"
    with pytest.raises(QueueFull, match=sentence) as caught:
        put(busy, at=0.004, deadline=0.060)  # 20 ms of what runs, 24 ms of what waits, and its own 10 ms, with caution
    assert caught.value.retry_after_s == pytest.approx(0.0034)
    put(busy, at=0.004, deadline=0.070)
    put(busy, at=0.004)
    put(busy, at=0.004, priority=1, deadline=0.045)


def test_an_idle_model_takes_what_its_table_says_is_too_slow_and_learns() -> None:
    wrong = measured({size: 100 * spent for size, spent in FLAT.items()})
    for _ in range(60):
        put(wrong, deadline=0.5)
        run = wrong.poll(0.0)
        assert isinstance(run, Run)
        wrong.finished(run, 0.001)
    assert wrong.latency.seconds(1) < 0.01


def test_what_was_accepted_by_an_engine_that_died_is_refused_for_nothing() -> None:
    busy = measured(STEEP, max_queue_size=1)
    put(busy, 8)
    assert isinstance(busy.poll(0.0), Run)
    put(busy, 8)
    busy.add(Waiting(1, (3,), 0.0, deadline=0.001), is_accepted=True)
    assert len(busy) == 2


def test_a_full_queue_says_when_it_will_be_empty() -> None:
    busy = measured(STEEP, max_queue_size=2)
    put(busy, 8)
    put(busy, 8)
    with pytest.raises(QueueFull) as caught:
        put(busy)
    assert caught.value.retry_after_s == pytest.approx(2 * STEEP[8])


def test_while_an_instance_computes_only_a_full_batch_is_taken() -> None:
    busy = batcher()
    put(busy, 7)
    assert busy.poll(0.0, is_busy=True) is None
    put(busy, 1)
    run = busy.poll(0.0, is_busy=True)
    assert isinstance(run, Run)
    assert (run.bucket, run.reason) == (8, "full")
