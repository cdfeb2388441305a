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
LAG_S = 0.02  # what is counted together is not counted later than that
FEW = 8  # requests are counted at once where nothing else waits: a client that is alone, or nearly so
VECTOR = 24  # values or more are placed faster by NumPy


def series(store: Store, metric: Metric, *labels: str) -> Series:
    """The words of a metric under these labels."""
    assert len(labels) == len(metric.labels), metric.name
    return store.series((metric.name, *labels), metric.size)


class Histogram:
    """A histogram of seconds, of which nanoseconds are counted."""

    __slots__ = ("_at", "_buckets", "_words")

    def __init__(self, found: Series) -> None:
        self._words, self._at = found.words, found.at
        first = found.at + 1
        self._buckets = np.frombuffer(found.words, np.uint64)[first : first + SECONDS.count]

    def add(self, nanoseconds: int, count: int = 1) -> None:
        """So much, so often."""
        words, at = self._words, self._at
        words[at] += nanoseconds * count
        words[at + 1 + bisect_left(BOUNDS, nanoseconds)] += count

    def add_all(self, nanoseconds: Sequence[int]) -> None:
        """Many, in any order."""
        if len(nanoseconds) >= VECTOR:
            self.add_array(np.array(nanoseconds))
            return
        self._words[self._at] += sum(nanoseconds)
        place_all(self._words, self._at + 1, sorted(nanoseconds), BOUNDS)

    def add_array(self, nanoseconds: npt.NDArray[np.int64]) -> None:
        """The same for an array."""
        self._words[self._at] += int(nanoseconds.sum())
        counts = np.bincount(BOUNDS_ARRAY.searchsorted(nanoseconds)).view(np.uint64)
        self._buckets[: len(counts)] += counts


def place_all(words: memoryview, first: int, ordered: Sequence[int], bounds: Sequence[int]) -> None:
    """Add to the buckets that begin at `first`, the smallest value first: a search for each bucket, not each value."""
    start, count, last = 0, len(ordered), len(bounds)
    while start < count:
        bucket = bisect_left(bounds, ordered[start])
        end = bisect_right(ordered, bounds[bucket], start + 1) if bucket < last else count
        words[first + bucket] += end - start
        start = end
