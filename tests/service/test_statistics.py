"""Totals over several processes' files: sums, batch sizes, what fails, what is not counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.observe.batch_recorder import BatchRecorder
from service.observe.recorders import RequestRecorder
from service.observe.store import Store
from service.statistics import Statistics, model_statistics

DURATIONS = (
    *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"),
)


def of(directory: Path, version: str = "1") -> dict[str, Any]:
    return model_statistics("double", version, Statistics(directory).read())


def test_a_version_that_was_never_asked_has_all_eight_durations_at_zero(tmp_path: Path) -> None:
    found = of(tmp_path)
    assert found["inference_stats"] == {name: {"count": 0, "ns": 0} for name in DURATIONS}
    assert (found["name"], found["version"], found["batch_stats"], found["last_inference"]) == ("double", "1", [], 0)
    assert (found["inference_count"], found["execution_count"], found["response_stats"]) == (0, 0, {})


def test_several_frontends_and_engines_add_up(tmp_path: Path) -> None:
    frontends = [RequestRecorder(Store(tmp_path)) for _ in range(2)]
    engines = [BatchRecorder(Store(tmp_path), "double", "1") for _ in range(2)]
    frontends[0].finished("double", "1", "http", "success", 0.5, 2)
    frontends[1].finished("double", "1", "grpc", "success", 0.25, 1)
    frontends[1].finished("double", "1", "grpc", "failed", 0.125, 1)
    engines[0].batch([10, 20], (1, 2, 40, 5), 3, 4)
    engines[1].batch([30], (1, 1, 50, 6), 3, 4)
    engines[1].batch([1], (1, 1, 1, 1), 8, 8)
    found = of(tmp_path)
    assert found["inference_stats"] == {
        "success": {"count": 2, "ns": 750_000_000},
        "fail": {"count": 1, "ns": 125_000_000},
        "queue": {"count": 4, "ns": 61},
        "compute_input": {"count": 4, "ns": 2 * 3 + 2 + 2},
        "compute_infer": {"count": 4, "ns": 2 * 40 + 50 + 1},
        "compute_output": {"count": 4, "ns": 2 * 5 + 6 + 1},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }
    assert (found["inference_count"], found["execution_count"]) == (14, 3)
    assert found["batch_stats"] == [
        {
            "batch_size": 3,
            "compute_input": {"count": 2, "ns": 5},
            "compute_infer": {"count": 2, "ns": 90},
            "compute_output": {"count": 2, "ns": 11},
        },
        {
            "batch_size": 8,
            "compute_input": {"count": 1, "ns": 2},
            "compute_infer": {"count": 1, "ns": 1},
            "compute_output": {"count": 1, "ns": 1},
        },
    ]
    assert found["last_inference"] > 1_700_000_000_000, "milliseconds since the epoch"


@pytest.mark.parametrize(("outcome", "fails"), [("invalid", 0), ("rejected", 1), ("timeout", 1), ("cancelled", 1)])
def test_only_what_was_let_in_can_fail(tmp_path: Path, outcome: str, fails: int) -> None:
    RequestRecorder(Store(tmp_path)).finished("double", "1", "http", outcome, 0.1, 0)
    assert of(tmp_path)["inference_stats"]["fail"]["count"] == fails


def test_a_kept_answer_is_a_success_that_nothing_computed(tmp_path: Path) -> None:
    totals = RequestRecorder(Store(tmp_path))
    totals.looked_up("double", "1", False, 0.25)
    totals.looked_up("double", "1", True, 0.5)
    totals.finished("double", "1", "http", "success", 1.0, 1)
    found = of(tmp_path)
    stats = found["inference_stats"]
    assert stats["cache_hit"] == {"count": 1, "ns": 500_000_000}
    assert stats["cache_miss"] == {"count": 1, "ns": 250_000_000}
    assert (stats["success"]["count"], stats["compute_infer"]["count"], found["inference_count"]) == (1, 0, 0)


def test_an_unknown_model_leaves_no_row(tmp_path: Path) -> None:
    RequestRecorder(Store(tmp_path)).finished("", "", "http", "invalid", 0.1, 0)
    assert Statistics(tmp_path).read() == {}
