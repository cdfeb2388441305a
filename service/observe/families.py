"""Metrics as they are published: families of samples, whether our own or under other servers' names.

Pure. `exposition.py` and `protobuf.py` write them; `aliases.py` makes more of them from the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.observe.buckets import Buckets, Counts, Native
from service.observe.merge import Exemplar, Labels, Merged, exemplars
from service.observe.metrics import METRICS, Kind, Metric


@dataclass(frozen=True, slots=True)
class Histogram:
    """One histogram's sample: what was observed in all, how often up to each bound, then how often at all."""

    sum: float
    cumulated: Sequence[int]
    exemplars: Mapping[int, Exemplar] = field(default_factory=dict)
    native: Native | None = None


Sample = tuple[Labels, float | Histogram]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its samples. `bounds` are a histogram's, without the last, which has none."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    samples: Sequence[Sample]
    unit: str = ""
    bounds: tuple[float, ...] = ()
    is_bare: bool = False


def families(merged: Merged, has_native: bool = False) -> list[Family]:
    """Our own metrics, in the order of their declarations; those without a sample are left out."""
    found = []
    for metric in METRICS:
        samples = _samples(metric, merged.get(metric.name, {}), has_native)
        if samples and metric.kind != "hidden":
            bounds = metric.buckets.classic if metric.buckets is not None else ()
            found.append(Family(metric.name, metric.kind, metric.help, metric.labels, samples, metric.unit, bounds))
    return found


def _samples(metric: Metric, series: dict[Labels, Counts], has_native: bool) -> list[Sample]:
    divisor = round(1 / metric.scale)
    if metric.buckets is None:
        numbers = ((labels, int(words[0])) for labels, words in sorted(series.items(), key=first))
        return [(labels, value / divisor) for labels, value in numbers if value or not metric.hides_zero]
    examples = {labels: found for labels, words in series.items() if (found := exemplars(metric, words))}
    return histograms(metric.buckets, series, divisor, examples, has_native)


def first(pair: tuple[Labels, Counts]) -> Labels:
    """By its labels, for arrays have no order."""
    return pair[0]


def histograms(
    buckets: Buckets,
    series: dict[Labels, Counts],
    divisor: float,
    examples: Mapping[Labels, Mapping[int, Exemplar]] | None = None,
    has_native: bool = False,
) -> list[Sample]:
    """The samples of histograms' words, their sums divided; all at once, for there may be thousands."""
    if not series:
        return []
    ordered = sorted(series)
    words = np.stack([series[labels][: 1 + buckets.count] for labels in ordered])
    fine, sums = words[:, 1:], words[:, 0].tolist()
    native: Sequence[Native | None] = (buckets.native(fine) if has_native else None) or [None] * len(ordered)
    examples = examples or {}
    return [
        (labels, Histogram(total / divisor, cumulated, examples.get(labels, {}), each))
        for labels, total, cumulated, each in zip(ordered, sums, buckets.cumulated(fine), native, strict=True)
    ]
