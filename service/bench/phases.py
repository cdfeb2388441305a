"""Where the server's time went: the difference of two statistics of a model, per request.

Pure. Reads what `/v2/models/{m}/stats` answers, of any server that has it; over gRPC its numbers are text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

NAMES = ("queue", "compute_input", "compute_infer", "compute_output")


class Phases(msgspec.Struct, frozen=True):
    """Mean microseconds of a request in each phase, and mean rows of a batch, between two moments."""

    microseconds: dict[str, float]
    rows_per_batch: float


def phases_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> Phases | None:
    """None where nothing ran in between, or the statistics do not say."""
    microseconds = {}
    for name in NAMES:
        count = _duration(after, name, "count") - _duration(before, name, "count")
        spent_ns = _duration(after, name, "ns") - _duration(before, name, "ns")
        if count > 0:
            microseconds[name] = round(spent_ns / count / 1000, 1)
    batches = _sum(after, "execution_count") - _sum(before, "execution_count")
    if not microseconds or batches <= 0:
        return None
    inferences = _sum(after, "inference_count") - _sum(before, "inference_count")
    return Phases(microseconds, round(inferences / batches, 2))


def _sum(statistics: Mapping[str, Any], name: str) -> int:
    """Over all versions of the model; a number that is left out is zero."""
    return sum(int(each.get(name, 0)) for each in statistics.get("model_stats", ()))


def _duration(statistics: Mapping[str, Any], name: str, part: str) -> int:
    return sum(
        int(each.get("inference_stats", {}).get(name, {}).get(part, 0)) for each in statistics.get("model_stats", ())
    )
