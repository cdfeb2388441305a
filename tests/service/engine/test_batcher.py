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


def test_what_comes_alone_runs_as_if_it_had_waited() -> None:
    for policy in (Policy(4, (1, 2, 4)), Policy(0)):
        for rows in (1, 4) if policy.max_batch_size else (1,):
            waited, alone = Batcher(policy), Batcher(policy)
            for batcher in (waited, alone):
                batcher.measured({1: 0.1, 2: 0.15, 4: 0.2})
            waited.add(Waiting(rows, (3,), 1.0))
            by_poll, at_once = waited.poll(1.0), alone.run_alone(Waiting(rows, (3,), 1.0), 1.0)
            assert isinstance(by_poll, Run)
            assert at_once is not None
            assert (at_once.bucket, at_once.reason) == (by_poll.bucket, by_poll.reason)
            assert alone.run_alone(Waiting(1, (3,), 1.0), 1.0) is None, "one runs"
            alone.finished(at_once, 0.1)
            assert alone.run_alone(Waiting(1, (3,), 1.0), 1.0) is not None


def test_what_may_have_to_wait_is_not_run_at_once() -> None:
    late = Waiting(1, (3,), 1.0, 2.0)
    assert Batcher(Policy(4)).run_alone(late, 2.0) is None, "its time is over"
    assert Batcher(Policy(4)).run_alone(Waiting(5, (3,), 1.0), 1.0) is None, "it runs in parts"
    assert Batcher(Policy(4, max_queue_delay_s=1.0)).run_alone(late, 1.0) is None
    batcher = Batcher(Policy(4))
    batcher.add(Waiting(1, (3,), 0.0))
    assert batcher.run_alone(late, 1.0) is None, "one waits"
