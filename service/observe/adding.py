"""How words are found and added to: one value to a histogram, or the many of one turn or batch.

Knows the store and the declarations, nobody who counts. `recorders.py` and `tally.py` count with it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from service.observe.buckets import SECONDS
from service.observe.metrics import Metric
from service.observe.store import Series, Store

BOUNDS = SECONDS.bounds
BOUNDS_S = tuple(bound / 1e9 for bound in BOUNDS)
LAST_BUCKET = len(BOUNDS)
LAG_S = 0.02  # what is counted together is not counted later than that


def series(store: Store, metric: Metric, *labels: str) -> Series:
    """The words of a metric under these labels."""
    assert len(labels) == len(metric.labels), metric.name
    return store.series((metric.name, *labels), metric.size)


def observing(found: Series) -> Callable[[int], None]:
    """Adds one value to a histogram of seconds. A closure: its names are found faster than attributes."""
    words, total, first = found.words, found.at, found.at + 1

    def observe(nanoseconds: int) -> None:
        words[total] += nanoseconds
        words[first + bisect_left(BOUNDS, nanoseconds)] += 1

    return observe


def place_all(found: Series, ordered: Sequence[float], bounds: Sequence[float]) -> None:
    """Add to the buckets of a histogram of seconds, the smallest value first: a search for each bucket, not each value.

    The bounds are `BOUNDS` or `BOUNDS_S`, as the values are. Their sum is the caller's to add.
    """
    words, first, start, count = found.words, found.at + 1, 0, len(ordered)
    while start < count:
        bucket = bisect_left(bounds, ordered[start])
        end = bisect_right(ordered, bounds[bucket], start + 1) if bucket < LAST_BUCKET else count
        words[first + bucket] += end - start
        start = end
