"""How words are found and added to: one value to a histogram, or the many of some turns or batches.

Knows the store and the declarations, nobody who counts. `recorders.py`, `tally.py` and `batches.py` count with it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.observe.buckets import SECONDS
from service.observe.metrics import Metric
from service.observe.store import Series, Store

BOUNDS = SECONDS.bounds
BOUNDS_ARRAY = np.array(BOUNDS)
LAG_S = 0.25  # what is counted together is not counted later than that; an engine is asked to where that is too late
ALONE_LAG_S = 0.1  # by a frontend, in its own loop
PEER_LAG_S = 0.03  # by one of several frontends, which cannot ask each other to
VECTOR = 24  # values or more are placed faster by NumPy


def series(store: Store, metric: Metric, *labels: str) -> Series:
    """The words of a metric under these labels."""
    assert len(labels) == len(metric.labels), metric.name
    return store.series((metric.name, *labels), metric.size)


class Histogram:
    """A histogram of seconds, of which nanoseconds are counted."""

    __slots__ = ("at", "buckets", "words")

    def __init__(self, found: Series) -> None:
        self.words, self.at = found.words, found.at
        first = found.at + 1
        self.buckets = np.frombuffer(found.words, np.uint64)[first : first + SECONDS.count]

    def add(self, nanoseconds: int, count: int = 1) -> None:
        """So much, so often."""
        words, at = self.words, self.at
        words[at] += nanoseconds * count
        words[at + 1 + bisect_left(BOUNDS, nanoseconds)] += count

    def add_all(self, nanoseconds: Sequence[int]) -> None:
        """Many, in any order."""
        if len(nanoseconds) >= VECTOR:
            self.add_array(np.array(nanoseconds))
            return
        self.words[self.at] += sum(nanoseconds)
        place_all(self.words, self.at + 1, sorted(nanoseconds), BOUNDS)

    def add_array(self, nanoseconds: npt.NDArray[np.int64]) -> None:
        """The same for an array."""
        self.words[self.at] += int(nanoseconds.sum())
        counts = np.bincount(BOUNDS_ARRAY.searchsorted(nanoseconds)).view(np.uint64)
        self.buckets[: len(counts)] += counts

    def add_often(self, nanoseconds: npt.NDArray[np.int64], often: npt.NDArray[np.int64]) -> None:
        """The same where each came so often."""
        self.words[self.at] += int(nanoseconds @ often)
        counts = np.bincount(BOUNDS_ARRAY.searchsorted(nanoseconds), often).astype(np.uint64)
        self.buckets[: len(counts)] += counts


def add_to_each(histograms: Sequence[Histogram], nanoseconds: npt.NDArray[np.int64]) -> None:
    """A row of values to each."""
    for found, total in zip(histograms, nanoseconds.sum(axis=1).tolist(), strict=True):
        found.words[found.at] += total
    width = SECONDS.count
    places = BOUNDS_ARRAY.searchsorted(nanoseconds) + np.arange(len(histograms))[:, None] * width
    counts = np.bincount(places.ravel(), minlength=len(histograms) * width).view(np.uint64).reshape(-1, width)
    for found, row in zip(histograms, counts, strict=True):
        found.buckets += row


def place_all(words: memoryview, first: int, ordered: Sequence[int], bounds: Sequence[int]) -> None:
    """Add to the buckets that begin at `first`, the smallest value first: a search for each bucket, not each value."""
    start, count, last = 0, len(ordered), len(bounds)
    while start < count:
        bucket = bisect_left(bounds, ordered[start])
        end = bisect_right(ordered, bounds[bucket], start + 1) if bucket < last else count
        words[first + bucket] += end - start
        start = end
