"""Other servers' names say what ours and the statistics say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.observe import metrics
from service.observe.aliases import Aliases, alias_families
from service.observe.families import Family, Histogram
from service.observe.merge import Merged, words_of
from service.statistics import totals_of
from tests.service.observe.counting import counted

KEY = ("digits", "1")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    return counted(tmp_path_factory.mktemp("counts"))


def named(merged: Merged, which: Aliases = "all") -> dict[str, Family]:
    return {family.name: family for family in alias_families(merged, which)}


def number(family: Family, labels: tuple[str, ...] = KEY) -> float:
    value = dict(family.samples)[labels]
    assert not isinstance(value, Histogram)
    return value


def test_tritons_counts_are_those_of_the_statistics(merged: Merged) -> None:
    found, totals = named(merged), totals_of(merged)["digits", "1", 0]
    assert number(found["nv_inference_request_success"]) == totals.success_count == 4
    failures = dict(found["nv_inference_request_failure"].samples)
    assert failures == {
        (*KEY, "REJECTED"): 4.0,
        (*KEY, "CANCELED"): 2.0,
        (*KEY, "BACKEND"): 2.0,
        (*KEY, "OTHER"): 2.0,
    }
    assert sum(failures.values()) - 2 == totals.fail_count  # type: ignore[arg-type]
    assert number(found["nv_inference_count"]) == totals.inference_count == 8
    assert number(found["nv_inference_exec_count"]) == totals.execution_count == 2
    assert number(found["nv_inference_request_duration_us"]) == totals.success_ns / 1000
    assert number(found["nv_inference_queue_duration_us"]) == totals.queue_ns / 1000 == 6
    assert number(found["nv_inference_compute_input_duration_us"]) == totals.compute_input_ns / 1000 == 120
    assert number(found["nv_inference_compute_infer_duration_us"]) == totals.compute_infer_ns / 1000 == 12000
    assert number(found["nv_inference_compute_output_duration_us"]) == totals.compute_output_ns / 1000 == 160
    assert number(found["nv_cache_num_hits_per_model"]) == totals.cache_hit_count == 2
    assert number(found["nv_cache_miss_duration_per_model"]) == totals.cache_miss_ns / 1000 == 500_000
    assert number(found["nv_inference_pending_request_count"]) == 5


def test_tritons_histograms_count_what_they_claim(merged: Merged) -> None:
    found = named(merged, "triton")
    expected = {"request": 604_000, "queue": 6, "compute_input": 60, "compute_infer": 6000, "compute_output": 80}
    for name, microseconds in expected.items():
        value = dict(found[f"nv_inference_{name}_duration_histogram_us"].samples)[KEY]
        assert isinstance(value, Histogram)
        assert value.sum == microseconds, name
        assert value.cumulated[-1] == (4 if name in ("request", "queue") else 2), name
    first = dict(found["nv_inference_first_response_histogram_ms"].samples)[KEY]
    assert isinstance(first, Histogram)
    assert first.cumulated == [2, 4, 4, 4, 4]


def test_tensorflow_servings_names(merged: Merged) -> None:
    found = named(merged, "tf_serving")
    assert number(found[":tensorflow:serving:request_count"], ("digits", "OK")) == 4
    assert number(found[":tensorflow:serving:batching_session:padding_size"], ("digits",)) == 8
    latency = dict(found[":tensorflow:serving:request_latency"].samples)[("digits",)]
    assert isinstance(latency, Histogram)
    assert (latency.sum, latency.cumulated[-1]) == (604_000, 4)
    assert not any(name.startswith("nv_") for name in found)


def test_none_of_them_where_none_is_asked_for(merged: Merged) -> None:
    assert alias_families(merged, "none") == []


def test_what_was_asked_of_no_model_has_no_alias(merged: Merged) -> None:
    assert all(labels[0] != "" for family in alias_families(merged, "all") for labels, _ in family.samples if labels)


def test_gpus_are_named_by_their_uuid() -> None:
    gpu = ("0", "GPU-1", "H100")
    words = {metrics.GPU_POWER.name: words_of({gpu: 250_500}), metrics.GPU_UTILISATION.name: words_of({gpu: 42})}
    found = named(words, "triton")
    assert number(found["nv_gpu_power_usage"], ("GPU-1",)) == 250.5
    assert number(found["nv_gpu_utilization"], ("GPU-1",)) == 0.42


def test_aliases_leave_the_words_alone(tmp_path: Path) -> None:
    merged = counted(tmp_path)
    before = {name: {k: w.copy() for k, w in series.items()} for name, series in merged.items()}
    alias_families(merged, "all")
    for name, series in merged.items():
        assert all(np.array_equal(words, before[name][key]) for key, words in series.items()), name
