"""How often and how long: the totals of every model version over all processes, for the statistics extension.

The same words that the metrics are made of (`observe/store.py`): any frontend sums the files of all processes when it
is asked, so that the numbers are the service's own wherever a request went. Knows no protocol and no metric's format.
`control.py` answers with `Statistics.read`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from service.observe import metrics
from service.observe.buckets import Counts
from service.observe.merge import Labels, Merged, Reader
from service.observe.metrics import Metric

SOURCES = (
    *(metrics.REQUESTS, metrics.LATENCY, metrics.FAILED_SECONDS, metrics.LAST, metrics.KEPT, metrics.KEPT_SECONDS),
    *(metrics.PHASE, metrics.REQUEST_PHASE_SECONDS, metrics.BATCH, metrics.BATCH_TIMES),
)
COUNTED_AS_FAILED = ("failed", "rejected", "timeout", "cancelled")  # what is refused as invalid was no inference


class Totals(msgspec.Struct):
    """What has been counted. Times are nanoseconds; `last_inference_ms` is since the epoch."""

    success_count: int = 0
    success_ns: int = 0
    fail_count: int = 0
    fail_ns: int = 0
    queue_count: int = 0
    queue_ns: int = 0
    compute_count: int = 0  # one for input, inference and output: clients need the three to be equal
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    cache_hit_count: int = 0
    cache_hit_ns: int = 0
    cache_miss_count: int = 0
    cache_miss_ns: int = 0
    inference_count: int = 0  # rows
    execution_count: int = 0  # batches
    last_inference_ms: int = 0


# (model, version, batch size): batch size 0 has the totals of the version, the others those of such batches.
Key = tuple[str, str, int]


class Statistics:
    """`statistics.read()` gives the sums over all processes, those that have ended too. `settle` has them count
    what they put off."""

    def __init__(self, directory: Path, settle: Callable[[], Awaitable[None]] | None = None) -> None:
        self._reader = Reader(directory)
        self._settle = settle

    async def ask(self) -> dict[Key, Totals]:
        """As `read`, with every request that was answered before."""
        if self._settle is not None:
            await self._settle()
        return self.read()

    def read(self) -> dict[Key, Totals]:
        """By model, version and batch size."""
        return totals_of(self._reader.read(metric.name for metric in SOURCES))


def totals_of(merged: Merged) -> dict[Key, Totals]:
    """The statistics among what was counted."""
    found: dict[Key, Totals] = {}

    def total(labels: Labels, rows: int = 0) -> Totals:
        return found.setdefault((labels[0], labels[1], rows), Totals())

    for labels, counted in _each(merged, metrics.REQUESTS):
        if labels[3] in COUNTED_AS_FAILED:
            total(labels).fail_count += int(counted[0])
    for labels, counted in _each(merged, metrics.FAILED_SECONDS):
        total(labels).fail_ns += int(counted[0])
    for labels, counted in _each(merged, metrics.LATENCY):
        totals = total(labels)
        totals.success_ns += int(counted[0])
        totals.success_count += _observed(metrics.LATENCY, counted)
    for labels, counted in _each(merged, metrics.LAST):
        total(labels).last_inference_ms = int(counted[0])
    _add_batches(merged, total)
    for metric, unit in ((metrics.KEPT, "count"), (metrics.KEPT_SECONDS, "ns")):
        for labels, counted in _each(merged, metric):
            setattr(total(labels), f"cache_{labels[2]}_{unit}", int(counted[0]))
    return found


def _add_batches(merged: Merged, total: Callable[..., Totals]) -> None:
    for labels, counted in _each(merged, metrics.PHASE):
        if labels[2] == "queue" and counted.any():
            totals = total(labels)
            totals.queue_ns = int(counted[0])
            totals.queue_count = totals.compute_count = _observed(metrics.PHASE, counted)
    names = {"input": "compute_input_ns", "compute": "compute_infer_ns", "output": "compute_output_ns"}
    for labels, counted in _each(merged, metrics.REQUEST_PHASE_SECONDS):
        if counted[0]:
            setattr(total(labels), names[labels[2]], int(counted[0]))
    for labels, counted in _each(merged, metrics.BATCH):
        if counted[0]:
            totals = total(labels)
            totals.inference_count = int(counted[0])
            totals.execution_count = _observed(metrics.BATCH, counted)
    for labels, counted in _each(merged, metrics.BATCH_TIMES):
        totals = total(labels, int(labels[2]))
        totals.compute_count, totals.compute_input_ns, totals.compute_infer_ns, totals.compute_output_ns = (
            counted.tolist()
        )


def _each(merged: Merged, metric: Metric) -> Iterator[tuple[Labels, Counts]]:
    """The series of real versions: what was asked of no model has no version."""
    return ((labels, counted) for labels, counted in merged[metric.name].items() if labels[1])


def _observed(metric: Metric, counted: Counts) -> int:
    assert metric.buckets is not None, "a histogram"
    return int(counted[1 : 1 + metric.buckets.count].sum())


def model_statistics(name: str, version: str, totals: dict[Key, Totals]) -> dict[str, Any]:
    """One version's statistics as the protocol's JSON has them."""
    own = totals.get((name, version, 0), Totals())
    batches = sorted((key[2], each) for key, each in totals.items() if key[:2] == (name, version) and key[2])
    return {
        "name": name,
        "version": version,
        "last_inference": own.last_inference_ms,
        "inference_count": own.inference_count,
        "execution_count": own.execution_count,
        "inference_stats": {
            "success": _duration(own.success_count, own.success_ns),
            "fail": _duration(own.fail_count, own.fail_ns),
            "queue": _duration(own.queue_count, own.queue_ns),
            **_compute(own),
            "cache_hit": _duration(own.cache_hit_count, own.cache_hit_ns),
            "cache_miss": _duration(own.cache_miss_count, own.cache_miss_ns),
        },
        "response_stats": {},  # by number of the response, where a request has several: not counted
        "batch_stats": [{"batch_size": size, **_compute(each)} for size, each in batches],
        "memory_usage": [],
    }


def _compute(totals: Totals) -> dict[str, dict[str, int]]:
    return {
        "compute_input": _duration(totals.compute_count, totals.compute_input_ns),
        "compute_infer": _duration(totals.compute_count, totals.compute_infer_ns),
        "compute_output": _duration(totals.compute_count, totals.compute_output_ns),
    }


def _duration(count: int, nanoseconds: int) -> dict[str, int]:
    return {"count": count, "ns": nanoseconds}
