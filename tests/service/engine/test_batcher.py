"""The batcher decides what runs together and when; time is an argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batcher import Batcher, Expire, Policy, Run, WaitUntil
from service.engine.queues import Waiting
from service.errors import QueueFull

BUCKETS = (1, 2, 4, 8)


def batcher(**changes: object) -> Batcher:
    return Batcher(Policy(**{"max_batch_size": 8, "buckets": BUCKETS, **changes}))  # type: ignore[arg-type]


def put(target: Batcher, rows: int = 1, at: float = 0.0, **more: object) -> Waiting:
    request = Waiting(rows, more.pop("shape", (3,)), at, **more)  # type: ignore[arg-type]
    target.add(request)
    return request


def test_nothing_waits() -> None:
    assert batcher().poll(0.0) is None


def test_an_idle_device_never_waits() -> None:
    idle = batcher()
    only = put(idle)
    assert idle.poll(0.0) == Run((only,), bucket=1)


def test_what_waits_runs_together_padded_to_the_next_bucket() -> None:
    busy = batcher()
    requests = (put(busy, 2), put(busy, 1))
    assert busy.poll(0.0) == Run(requests, bucket=4)


def test_rows_are_counted_not_requests() -> None:
    busy = batcher()
    first, second, third = put(busy, 4), put(busy, 4), put(busy, 1)
    assert busy.poll(0.0) == Run((first, second), bucket=8)
    assert busy.poll(0.0) == Run((third,), bucket=1)


def test_a_delay_waits_for_more_until_it_is_over() -> None:
    patient = batcher(max_queue_delay_s=0.005)
    first = put(patient, at=1.0)
    assert patient.poll(1.0) == WaitUntil(1.005)
    second = put(patient, at=1.002)
    assert patient.poll(1.002) == WaitUntil(1.005)
    assert patient.poll(1.005) == Run((first, second), bucket=2)


def test_it_says_why_a_batch_runs_just_now() -> None:
    idle, patient, alone = batcher(), batcher(max_queue_delay_s=1.0), Batcher(Policy(max_batch_size=0))
    for rows, target in ((1, idle), (8, idle), (1, patient), (1, alone)):
        put(target, rows)
    reasons = [target.poll(2.0).reason for target in (idle, patient, alone)]  # type: ignore[union-attr]
    assert reasons == ["idle", "delay", "idle"]
    assert idle.poll(2.0).reason == "full"  # type: ignore[union-attr]


def test_a_delay_ends_when_the_batch_is_full() -> None:
    patient = batcher(max_queue_delay_s=1.0)
    requests = tuple(put(patient, 2) for _ in range(4))
    assert patient.poll(0.0) == Run(requests, bucket=8)


def test_a_delay_wakes_for_an_earlier_deadline() -> None:
    patient = batcher(max_queue_delay_s=1.0)
    hasty = put(patient, deadline=0.25)
    assert patient.poll(0.0) == WaitUntil(0.25)
    assert patient.poll(0.25) == Expire((hasty,))
    assert patient.poll(0.25) is None


def test_an_expired_request_never_runs() -> None:
    late = batcher()
    expired, alive = put(late, deadline=1.0), put(late)
    assert late.poll(2.0) == Expire((expired,))
    assert late.poll(2.0) == Run((alive,), bucket=1)


def test_a_full_queue_refuses_and_says_so() -> None:
    small = batcher(max_queue_size=2)
    put(small)
    put(small)
    with pytest.raises(QueueFull, match="2 requests wait already"):
        put(small)


def test_a_cancelled_request_makes_room() -> None:
    small = batcher(max_queue_size=1)
    assert small.cancel(put(small))
    put(small)


def test_a_model_without_batch_dimension_runs_one_request_at_a_time() -> None:
    single = Batcher(Policy(max_batch_size=0))
    first, second = put(single), put(single)
    assert single.poll(0.0) == Run((first,), bucket=1)
    assert single.poll(0.0) == Run((second,), bucket=1)


def test_its_state_can_be_printed() -> None:
    shown = batcher()
    put(shown, 3, deadline=0.5)
    assert repr(shown) == "<Batcher 1 waiting, 3 rows, next deadline 0.500>"


arrivals = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from([(3,), (4,)]), st.integers(0, 2), st.none() | st.floats(0, 3)),
    max_size=40,
)


@given(arrivals, st.floats(0, 0.5))
def test_every_request_runs_once_or_expires_and_no_batch_mixes_or_overflows(
    requests: list[tuple[int, tuple[int], int, float | None]], delay: float
) -> None:
    subject = batcher(max_queue_delay_s=delay)
    added = [
        put(subject, rows, at=0.1 * index, shape=shape, priority=priority, deadline=deadline)
        for index, (rows, shape, priority, deadline) in enumerate(requests)
    ]
    answered: list[Waiting] = []
    now = 0.0
    while (decision := subject.poll(now)) is not None:
        match decision:
            case WaitUntil(when):
                assert when > now
                now = when
            case Expire(gone):
                assert all(request.deadline is not None and request.deadline <= now for request in gone)
                answered.extend(gone)
            case Run(batch, bucket):
                rows = sum(request.rows for request in batch)
                assert rows <= bucket <= 8
                assert bucket in BUCKETS
                assert len({request.shape for request in batch}) == 1
                assert all(request.deadline is None or request.deadline > now for request in batch)
                answered.extend(batch)
    assert len(answered) == len(added)
    assert set(map(id, answered)) == set(map(id, added))
    assert len(subject) == 0


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


def divisible(rows: int, at: float = 0.0, **more: object) -> Waiting:
    return Waiting(rows, (3,), at, divide=lambda start, count: (start, count), part=8, **more)  # type: ignore[arg-type]


def test_a_large_request_runs_in_parts_that_fill_batches_and_others_have_their_turn() -> None:
    busy = batcher()
    first, large = put(busy, 3), divisible(20)
    busy.add(large)
    last = put(busy, 2)
    batches = []
    while isinstance(run := busy.poll(1.0), Run):
        batches.append([each.payload for each in run.requests])
        assert run.bucket <= 8
    assert batches == [[None, (0, 5)], [None, (5, 6)], [(11, 8)], [(19, 1)]]
    assert first.is_gone
    assert last.is_gone
    assert large.is_gone
    assert len(busy) == 0


def test_the_rest_of_a_large_request_leaves_with_its_client() -> None:
    busy = batcher()
    large = divisible(20)
    busy.add(large)
    assert isinstance(busy.poll(0.0), Run)
    assert busy.cancel(large)
    assert busy.poll(0.0) is None
    assert repr(busy) == "<Batcher 0 waiting, 0 rows>"


def test_a_request_whose_timeout_delays_it_lets_others_go_first() -> None:
    busy = batcher()
    late, other = put(busy, 8, late=0.1), put(busy, 8, at=0.1)
    assert busy.poll(0.2) == Run((other,), bucket=8)
    assert busy.poll(0.2) == Run((late,), bucket=8)
