"""The measured times decide how what waits is divided; the plan is the best there is."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.latency import Latency

POWERS = (1, 2, 4, 8, 16, 32, 64)
STEEP = {size: 0.001 + 0.0001 * size for size in POWERS}  # a processor: rows cost
FLAT = {size: 0.001 + 0.000001 * size for size in POWERS}  # a GPU: calls cost


def batches(latency: Latency, rows: int) -> list[int]:
    found = []
    while rows > 0:
        found.append(latency.first(rows))
        rows -= found[-1]
    return found


def test_33_rows_are_one_padded_batch_where_calls_cost_and_two_where_rows_do() -> None:
    assert batches(Latency(POWERS, FLAT), 33) == [64]
    assert batches(Latency(POWERS, STEEP), 33) == [32, 1]
    assert batches(Latency(POWERS, STEEP), 31) == [32]


def test_more_than_the_largest_batch_is_several() -> None:
    latency = Latency(POWERS, FLAT)
    assert batches(latency, 150) == [64, 64, 32]
    assert latency.seconds(150) == pytest.approx(2 * FLAT[64] + FLAT[32])
    assert latency.seconds(0) == 0


def test_a_size_that_smaller_ones_beat_is_not_run() -> None:
    latency = Latency((1, 8, 64), {1: 0.001, 8: 0.002, 64: 0.050})
    assert (latency.largest, batches(latency, 64)) == (8, [8] * 8)
    assert latency.bucket(64) == 64, "what came as one request stays one batch"


def test_a_size_that_a_larger_one_beats_is_padded_to_it() -> None:
    latency = Latency((1, 8, 16), {1: 0.001, 8: 0.009, 16: 0.004})
    assert batches(latency, 8) == [16]
    assert (latency.bucket(8), latency.bucket(1)) == (16, 1)
    assert Latency((1, 2), {1: 0.00101, 2: 0.001}).bucket(1) == 1, "that is noise"


def test_without_a_time_for_each_size_it_pads_to_the_next() -> None:
    latency = Latency(POWERS, {1: 0.001})
    assert not latency.is_known
    assert batches(latency, 33) == [64]
    assert batches(latency, 100) == [64, 64]
    assert latency.bucket(3) == 4


def test_a_model_without_batch_dimension_has_one_size() -> None:
    latency = Latency((), {1: 0.5})
    assert (latency.first(1), latency.bucket(1), latency.seconds(3)) == (1, 1, 1.5)


def test_it_learns_from_what_batches_take() -> None:
    latency = Latency((1, 8), {1: 0.001, 8: 0.010})
    assert batches(latency, 4) == [1] * 4
    for _ in range(50):
        latency.observed(8, 0.001)
    assert batches(latency, 4) == [8]
    assert latency.seconds(8) == pytest.approx(0.001, rel=0.2)


def test_one_interruption_changes_little() -> None:
    latency = Latency((1,), {1: 0.001})
    latency.observed(1, 60.0)
    assert latency.seconds(1) < 0.002


def test_it_learns_sizes_that_were_never_measured() -> None:
    latency = Latency((1, 8), {})
    latency.observed(8, 0.002)
    assert not latency.is_known
    latency.observed(1, 0.001)
    assert latency.is_known
    assert batches(latency, 9) == [8, 1]
    assert repr(latency) == "<Latency 8: 2.000 ms, 1: 1.000 ms>"
    assert repr(Latency((1,), {})) == "<Latency unknown>"


times = st.floats(0.001, 1.0)


@given(st.lists(times, min_size=5, max_size=5), st.integers(1, 40))
def test_no_way_to_divide_the_rows_is_better(measured: list[float], rows: int) -> None:
    sizes = (1, 2, 4, 8, 16)
    table = dict(zip(sizes, sorted(measured), strict=True))
    latency = Latency(sizes, table)

    @cache
    def best(left: int) -> float:
        return 0.0 if left <= 0 else min(table[size] + best(left - size) for size in sizes)

    assert latency.seconds(rows) == pytest.approx(best(rows))
    assert sum(table[size] for size in batches(latency, rows)) == pytest.approx(best(rows))


@given(st.sets(st.integers(1, 50), min_size=1, max_size=6), st.data())
def test_sizes_that_do_not_divide_are_never_worse_than_padding(found: set[int], data: st.DataObject) -> None:
    sizes = tuple(sorted(found))
    measured = data.draw(st.lists(times, min_size=len(sizes), max_size=len(sizes)))
    table = dict(zip(sizes, sorted(measured), strict=True))
    rows = data.draw(st.integers(1, sizes[-1]))
    latency = Latency(sizes, table)
    padded = next(spent for size, spent in table.items() if size >= rows)
    assert sum(table[size] for size in batches(latency, rows)) <= padded + 1e-9
