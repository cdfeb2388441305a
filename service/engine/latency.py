"""What batches take, by their size: as measured when the model was compiled, corrected by what they take in service.

Pure: no clock, no tensors. `batcher.py` asks it how to divide what waits, and how long that will take.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

WEIGHT = 1 / 8  # of a new time in the running mean: the race was noisy, and so is a single batch
MAX_SURPRISE = 4.0  # times the mean: what took longer was interrupted, and counts as so much
WORTH_TELLING = 0.1  # a mean that has moved by less changes no plan


class Latency:
    """`Latency({1: 0.001, 32: 0.005, 64: 0.010})`: batch size -> seconds. Where a time is missing it plans nothing.

    `first(rows)` is the batch size to run next of so many rows, `seconds(rows)` what they take. Both minimise the
    *time of the device*, not the mean time of an answer: what the device saves, all that comes later gains too, and
    where the device is the bottleneck nothing else matters. Larger sizes run first, so that most are answered early.

    Sizes b[0] < b[1] < ... of times t[0] <= t[1] <= ... are those worth running: none that a larger one beats, and none
    of which smaller ones would take the rows in less time. Then n rows are best divided so:

        best(n) = min(t[u], q * t[d] + best(n - q * b[d]))     d: the largest size <= n, u: the next one, q = n // b[d]

    that is, either padded into one batch, or q full ones of the next smaller size and then the rest, which is smaller
    than b[d]: each step goes to a smaller size, so there are at most as many steps as sizes.

    *This is the least of all ways*, where each size divides the next, as powers of two do. Take any best way. Wherever
    it has b[i+1] / b[i] batches of size b[i], one of size b[i+1] takes no longer, as that size is worth running; so let
    it have fewer of each but the largest. If it has one larger than d, t[u] alone is no longer. Else those smaller than
    b[d] hold together at most (b[1]/b[0] - 1) * b[0] + ... + (b[d]/b[d-1] - 1) * b[d-1] < b[d] rows, so it has at
    least q of size b[d], and the others are a best way for the rest. Where sizes do not divide, what is found is never
    slower than padding to the next size.
    """

    def __init__(self, buckets: Sequence[int], seconds: Mapping[int, float]) -> None:
        self._buckets = tuple(buckets) or (1,)
        self._means = {bucket: seconds[bucket] for bucket in self._buckets if seconds.get(bucket, 0.0) > 0.0}
        self._planned = dict(self._means)
        self._sizes: list[int] = []  # those worth running
        self._times: list[float] = []
        self.is_known = len(self._means) == len(self._buckets)
        if self.is_known:
            self._plan()

    def __repr__(self) -> str:
        times = ", ".join(f"{size}: {1000 * spent:.3f} ms" for size, spent in self._means.items())
        return f"<Latency {times or 'unknown'}>"

    @property
    def largest(self) -> int:
        """The largest batch that is worth running."""
        return self._sizes[-1] if self.is_known else self._buckets[-1]

    @property
    def slowest_s(self) -> float:
        """What that takes. Ask only where times are known."""
        return self._times[-1]

    def observed(self, bucket: int, seconds: float) -> None:
        """A batch of this size took so long in service, all that is done for it included."""
        mean = self._means.get(bucket)
        if mean is None:
            self._learn(bucket, seconds)
            return
        mean += WEIGHT * (min(seconds, MAX_SURPRISE * mean) - mean)
        self._means[bucket] = mean
        if abs(mean - self._planned[bucket]) > WORTH_TELLING * self._planned[bucket]:
            self._planned[bucket] = mean
            if self.is_known:
                self._plan()

    def first(self, rows: int) -> int:
        """The batch size to run next while `rows` rows wait; a size above their number means padding."""
        sizes, times = self._sizes, self._times
        if not self.is_known:
            return self._buckets[min(bisect_left(self._buckets, rows), len(self._buckets) - 1)]
        upper = bisect_left(sizes, rows)
        if upper == len(sizes):
            return sizes[-1]
        if upper == 0 or sizes[upper] == rows or times[upper] <= _best(sizes[:upper], times, rows):
            return sizes[upper]
        return sizes[upper - 1]

    def bucket(self, rows: int) -> int:
        """The batch size for `rows` rows that run together."""
        sizes = self._sizes if self._sizes and rows <= self._sizes[-1] else self._buckets
        return sizes[bisect_left(sizes, rows)]

    def seconds(self, rows: int) -> float:
        """What so many rows take on one device that does nothing else. Ask only where it is known."""
        whole, rest = divmod(rows, self._sizes[-1])
        return whole * self._times[-1] + _best(self._sizes, self._times, rest)

    def _learn(self, bucket: int, seconds: float) -> None:
        self._means[bucket] = self._planned[bucket] = seconds
        self.is_known = len(self._means) == len(self._buckets)
        if self.is_known:
            self._plan()

    def _plan(self) -> None:
        """Find the sizes worth running: no larger one is clearly faster, nor are smaller ones together."""
        ahead: list[tuple[int, float]] = []
        least = float("inf")
        for size in reversed(self._buckets):
            spent = self._planned[size]
            if spent <= least * (1 + WORTH_TELLING):
                least = min(least, spent)
                ahead.append((size, least))
        sizes: list[int] = []
        times: list[float] = []
        for size, spent in reversed(ahead):
            if not sizes or spent < _best(sizes, times, size):
                sizes.append(size)
                times.append(spent)
        self._sizes, self._times = sizes, times  # at once: threads that run batches ask meanwhile


def _best(sizes: Sequence[int], times: Sequence[float], rows: int) -> float:
    """`best` of `Latency`, of these sizes."""
    spent, least, below = 0.0, float("inf"), len(sizes)
    while rows:
        upper = bisect_left(sizes, rows, hi=below)
        if upper < below:
            least = min(least, spent + times[upper])
        lower = bisect_right(sizes, rows, hi=below) - 1
        if lower < 0:
            return least
        whole, rows = divmod(rows, sizes[lower])
        spent += whole * times[lower]
        below = lower + 1
    return min(least, spent)
