"""The buckets of histograms: fine ones that are counted, and from which classic and native buckets are exact sums.

Pure. A value belongs to the first bucket whose bound it does not exceed; the last bucket has no bound.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.uint64]

SCHEMA = 3  # native bounds are powers of 2 ** (1 / 2**3): 9 % apart
LOWEST_EXPONENT, HIGHEST_EXPONENT = -20, 9  # 1 µs to 512 s
CLASSIC_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip  # 100 µs to 60 s: a tiny model on a local socket to a large one that queues
CLASSIC_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)


@dataclass(frozen=True)
class Native:
    """A Prometheus native histogram: how often each index occurred, from `first` on, and how often next to nothing."""

    schema: int
    zero_threshold: float
    zero_count: int
    first: int
    counts: Counts


@dataclass(frozen=True)
class Buckets:
    """`bounds` of the fine buckets, in the unit that is counted; `classic` bounds in the unit that is published."""

    bounds: tuple[int, ...]
    classic: tuple[float, ...]
    classic_at: tuple[int, ...]  # for each classic bound, how many fine buckets lie below it
    native_at: tuple[int, ...] = ()  # the same for each native bound, from the threshold of zero on

    @property
    def count(self) -> int:
        """How many fine buckets there are."""
        return len(self.bounds) + 1

    def classic_of(self, value: int) -> int:
        """The number of the classic bucket that this value is in."""
        return bisect_left(self.classic_at, bisect_left(self.bounds, value) + 1)

    def cumulated(self, fine: Counts) -> list[list[int]]:
        """A row for each row: of each classic bound, how many did not exceed it; then how many there are."""
        columns = [*(at - 1 for at in self.classic_at), -1]
        found: list[list[int]] = fine.cumsum(axis=1)[:, columns].tolist()
        return found

    def native(self, fine: Counts) -> list[Native] | None:
        """The same as native histograms; what exceeds the last bound is counted in one bucket more."""
        if not self.native_at:
            return None
        first, threshold = LOWEST_EXPONENT * 2**SCHEMA + 1, 2.0**LOWEST_EXPONENT
        counts = np.add.reduceat(fine, self.native_at, axis=1)
        zeros = fine[:, : self.native_at[0]].sum(axis=1).tolist()
        return [Native(SCHEMA, threshold, zero, first, row) for zero, row in zip(zeros, counts, strict=True)]


def seconds_buckets() -> Buckets:
    """Buckets of nanoseconds, published as seconds."""
    native = [
        int(2.0 ** (index / 2**SCHEMA) * 1e9)
        for index in range(LOWEST_EXPONENT * 2**SCHEMA, HIGHEST_EXPONENT * 2**SCHEMA + 1)
    ]
    classic = [round(bound * 1e9) for bound in CLASSIC_SECONDS]
    bounds = tuple(sorted({*native, *classic, 2 * 10**9}))  # 2 s: a bound of Triton's time to the first response
    return Buckets(bounds, CLASSIC_SECONDS, _below(bounds, classic), _below(bounds, native))


def rows_buckets() -> Buckets:
    """Buckets of rows; batches are whole numbers, which need no native ones."""
    return Buckets(CLASSIC_ROWS, tuple(map(float, CLASSIC_ROWS)), _below(CLASSIC_ROWS, CLASSIC_ROWS))


def _below(bounds: tuple[int, ...], chosen: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    return tuple(bounds.index(bound) + 1 for bound in chosen)


SECONDS = seconds_buckets()
ROWS = rows_buckets()
