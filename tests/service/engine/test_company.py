"""Requests of other padded sizes share a batch where that is the sooner for both, and never otherwise."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import pytest

from service.engine.batcher import Batcher, Policy, Run
from service.engine.company import Latencies, Room, choose_company, room_of
from service.engine.queues import Waiting
from service.errors import QueueFull

Times = Mapping[tuple[int, ...], Mapping[int, float]]

BUCKETS = (1, 2, 4, 8)
CALLS_COST: Times = {(size,): {rows: 0.010 + 1e-6 * size * rows for rows in BUCKETS} for size in (16, 32, 64)}
ELEMENTS_COST: Times = {(size,): {rows: 1e-4 + 1e-4 * size * rows for rows in BUCKETS} for size in (16, 32, 64)}


def batcher(padded: Times) -> Batcher:
    made = Batcher(Policy(8, BUCKETS))
    made.measured({}, padded)
    return made


def put(target: Batcher, size: int, rows: int = 1, rest: Hashable = None, **more: object) -> Waiting:
    request = Waiting(rows, Room((size,), rest), 0.0, **more)  # type: ignore[arg-type]
    target.add(request)
    return request


def batches(target: Batcher) -> list[tuple[list[int], int]]:
    """The sizes of the requests of each batch, and its rows."""
    found = []
    while isinstance(run := target.poll(0.0), Run):
        found.append(([request.shape.sizes[0] for request in run.requests], run.bucket))  # type: ignore[attr-defined]
    return found


def test_where_calls_cost_all_run_together_in_the_order_in_which_they_came() -> None:
    target = batcher(CALLS_COST)
    for size in (32, 16, 64, 16):
        put(target, size)
    assert batches(target) == [([32, 16, 64, 16], 4)]


def test_where_elements_cost_each_size_runs_by_itself() -> None:
    target = batcher(ELEMENTS_COST)
    for size in (16, 64, 16, 64):
        put(target, size)
    assert batches(target) == [([16, 16], 2), ([64, 64], 2)]


def test_rows_that_would_be_empty_are_given_to_whatever_fits() -> None:
    steep: Times = {sizes: {**times, 1: 1.0, 2: 1.0} for sizes, times in ELEMENTS_COST.items()}
    target = batcher(steep)
    put(target, 32, 3)
    put(target, 16)
    put(target, 16)
    first = target.poll(0.0)
    assert isinstance(first, Run)
    assert [request.shape.sizes for request in first.requests] == [(32,), (16,)]  # type: ignore[attr-defined]
    assert first.bucket == 4


def test_without_times_only_equal_sizes_share_a_batch_until_they_are_learned() -> None:
    target = batcher({})
    put(target, 16)
    put(target, 32)
    put(target, 16)
    assert batches(target) == [([16, 16], 2), ([32], 1)]
    for size in (16, 32):
        for rows in BUCKETS:
            put(target, size, rows)
            run = target.poll(0.0)
            assert isinstance(run, Run)
            target.finished(run, 0.010)
    put(target, 16)
    put(target, 32)
    assert batches(target) == [([16, 32], 2)]


def test_other_open_sizes_and_the_quarantined_share_nothing() -> None:
    target = batcher(CALLS_COST)
    put(target, 16)
    put(target, 16, rest="wide")
    assert batches(target) == [([16], 1), ([16], 1)]


def test_a_full_batch_waits_for_nobody() -> None:
    target = batcher(CALLS_COST)
    put(target, 16, 8)
    put(target, 32)
    assert batches(target) == [([16], 8), ([32], 1)]


def test_a_large_request_fills_what_longer_ones_leave() -> None:
    target = batcher(CALLS_COST)
    put(target, 64, 3)
    put(target, 16, 9, divide=lambda start, rows: (start, rows), part=8)
    assert batches(target) == [([64, 16], 8), ([16], 4)]


def test_the_earliest_deadline_is_first_whatever_its_size() -> None:
    target = batcher(CALLS_COST)
    for _ in range(8):
        put(target, 16)
    late = put(target, 64, deadline=0.9)
    run = target.poll(0.0)
    assert isinstance(run, Run)
    assert run.requests[0] is late


def test_what_goes_before_it_counts_by_its_own_sizes() -> None:
    target = batcher(ELEMENTS_COST)
    put(target, 16, 8)
    assert isinstance(target.poll(0.0), Run)
    put(target, 64, 8, priority=1)
    with pytest.raises(QueueFull, match="8 rows go before it"):
        put(target, 16, deadline=0.05)
    put(target, 16, deadline=0.08)


def test_what_takes_longest_is_not_taken_for_granted() -> None:
    latencies = Latencies(BUCKETS, {}, CALLS_COST)
    assert latencies.seconds({Room((16,)): 1, Room((64,)): 1}) == pytest.approx(0.010 + 2 * 64e-6)
    assert Latencies(BUCKETS, {}, ELEMENTS_COST).seconds({Room((16,)): 1, Room((64,)): 1}) == pytest.approx(0.0082)
    assert Latencies(BUCKETS, {}, {}).seconds({Room((16,)): 1}) is None
    assert choose_company(Room((16,)), 1, [(Room((32,)), 1)], latencies) == ([Room((32,))], Room((32,)), 2)


def test_a_room_holds_what_is_no_larger_in_any_dimension() -> None:
    one, other = Room((16, 8), "a"), Room((8, 16), "a")
    assert room_of([one, other]) == Room((16, 16), "a")
    assert not one.holds(other)
    assert one.join(other).holds(one)
    assert not Room((16, 16), "b").holds(one)
